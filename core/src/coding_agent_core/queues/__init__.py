"""The queues in which tasks wait. `coding_agent_core.queue_messages` says what each queue can do."""
