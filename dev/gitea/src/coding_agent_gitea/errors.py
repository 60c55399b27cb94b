"""What goes wrong with the Gitea of a test run."""


class GiteaError(Exception):
    """It does not start, or it refuses a request; the message is for the person who runs the command."""
