"""What can go wrong while the documentation is built."""


class DocsError(Exception):
    """The documentation cannot be built; the sentence says why."""
