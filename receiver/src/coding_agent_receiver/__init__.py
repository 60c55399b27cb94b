"""Verifies webhooks and turns labeled events into tasks."""
