"""Queues in which admitted tasks wait. `protocol` says what each of them can do."""
