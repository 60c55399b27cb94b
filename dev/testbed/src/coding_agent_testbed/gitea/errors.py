"""The error of this package."""

from coding_agent_testbed.errors import TestbedError


class GiteaError(TestbedError):
    """Gitea does not start, or refuses a request. The message is for the person who runs the command."""
