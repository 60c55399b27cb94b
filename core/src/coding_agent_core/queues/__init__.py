"""The queues in which tasks wait. `coding_agent_core.messages` says what each queue can do."""
