"""The token service: the only program with the key of the GitHub App."""
