"""Rounds of a change that our account opened: causes, policy, and the record (docs/decisions/0029)."""
