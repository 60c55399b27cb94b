"""GitHub's REST API (below `/api/v3`, as on GitHub Enterprise Server) and webhooks."""
