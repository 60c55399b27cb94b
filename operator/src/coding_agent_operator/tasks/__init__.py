"""One AgentTask: its state, what to do next, and how it is done."""
