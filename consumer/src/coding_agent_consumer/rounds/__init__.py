"""What an attempt does in a round: work that is due on a change of ours (docs/decisions/0029)."""
