"""The forges: one folder for each, and what they have in common."""
