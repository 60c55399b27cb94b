"""The reconcile of one AgentTask: its state, the decision that follows from it, and its execution."""
