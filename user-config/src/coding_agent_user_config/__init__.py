"""A small file-backed service of per-user settings."""
