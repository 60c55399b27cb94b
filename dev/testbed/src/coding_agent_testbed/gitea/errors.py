"""The error of this package."""


class GiteaError(Exception):
    """Gitea does not start, or refuses a request. The message is for the person who runs the command."""
