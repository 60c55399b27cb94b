"""Webhooks: their proof, their fields, and what they mean on every forge."""
