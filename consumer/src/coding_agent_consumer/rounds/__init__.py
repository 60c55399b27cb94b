"""Rounds in an attempt: the work that is due on a change of ours (docs/decisions/0029)."""
