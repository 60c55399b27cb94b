"""The attempt at a task: the agent, its workspace and the pull request; and the consumer of a queue."""
