"""A task: the item and the request, the AgentTask, its attempts, and how it may start and end."""
