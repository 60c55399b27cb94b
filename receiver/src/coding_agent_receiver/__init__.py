"""The receiver verifies webhooks and turns labeled events into tasks."""
