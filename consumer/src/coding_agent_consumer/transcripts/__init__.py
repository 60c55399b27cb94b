"""Transcripts of agents: their messages without secrets, and the place where they are kept."""
