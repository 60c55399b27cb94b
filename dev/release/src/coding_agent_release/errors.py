"""The error of this package."""


class ReleaseError(Exception):
    """The release cannot be made. The message names what is wrong and how to fix it."""
