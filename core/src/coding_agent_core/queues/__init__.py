"""The queues in which tasks wait. `coding_agent_core.queues.interfaces` says what each queue can do."""
