"""Gitea and its fork Forgejo: https://docs.gitea.com/api/. Tried with Gitea 1.27.3, never with Forgejo."""
