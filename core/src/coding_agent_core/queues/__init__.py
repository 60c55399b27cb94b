"""The queues in which tasks wait, and their interfaces in `coding_agent_core.queues.interfaces`."""
