"""A sandbox forge for development and tests: GitHub and GitLab shapes over real git repositories."""
