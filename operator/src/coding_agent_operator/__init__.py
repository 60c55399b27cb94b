"""The operator: AgentTasks to Jobs. `task_plan` and `fair_share` are the rules, `reconcile` applies them."""
