"""The rules by which `open_work` decides what is left to do on a change (docs/decisions/0029)."""
