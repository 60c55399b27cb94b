"""The kopf operator: AgentTasks to Jobs. `decide` and `schedule` hold the rules, `reconcile` applies them."""
