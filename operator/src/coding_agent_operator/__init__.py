"""The operator turns AgentTasks into Jobs: `task_plan` and `fair_share` contain the rules."""
