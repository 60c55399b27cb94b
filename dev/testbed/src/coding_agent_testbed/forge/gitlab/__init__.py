"""GitLab's REST API (below `/api/v4`) and webhooks."""
