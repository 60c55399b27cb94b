"""GitHub and GitHub Enterprise: https://docs.github.com/rest."""
