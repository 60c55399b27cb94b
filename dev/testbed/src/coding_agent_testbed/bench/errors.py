"""The error that a person may meet."""


class BenchError(Exception):
    """A benchmark cannot go on; the sentence says why and where to look."""
