"""Clients of GitHub, GitLab and Gitea: their webhooks, their APIs, and their credentials."""
