"""The error of a build of the documentation."""


class DocsError(Exception):
    """The documentation cannot be built; the sentence says why."""
