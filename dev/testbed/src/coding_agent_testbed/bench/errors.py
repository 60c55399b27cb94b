"""The error that a person may meet."""

from coding_agent_testbed.errors import TestbedError


class BenchError(TestbedError):
    """A benchmark cannot go on; the sentence says why and where to look."""
