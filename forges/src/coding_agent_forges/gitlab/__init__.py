"""GitLab.com and self-managed GitLab: https://docs.gitlab.com/api/."""
