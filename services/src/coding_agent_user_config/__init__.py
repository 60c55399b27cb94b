"""A small HTTP service for per-user settings, stored in files."""
