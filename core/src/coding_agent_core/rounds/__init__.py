"""Rounds: what is left to do on a change that our account opened (docs/decisions/0029)."""
