"""The kopf operator: AgentTasks to Jobs. Its place is reserved; it comes with the AgentTask resource."""
