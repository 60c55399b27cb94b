"""The operator turns AgentTasks into Jobs: `tasks.plan` and `scheduling.fair_share` contain the rules."""
