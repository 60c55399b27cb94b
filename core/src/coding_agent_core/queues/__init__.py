"""Queues: where admitted tasks wait. `protocol` says what each of them can do."""
