"""Rounds: the agent's further work on a change that our account opened."""
