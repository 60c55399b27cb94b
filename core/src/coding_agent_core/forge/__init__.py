"""Clients of the forges: GitHub and GitLab behind one protocol."""
