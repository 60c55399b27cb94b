"""The errors of this distribution that a person meets."""


class TestbedError(Exception):
    """Something outside the code is missing, failed or took too long; a program prints the message and ends.

    The message is for the person who runs the command: it says what to do, or where to look.
    """

    __test__ = False
    """So that pytest does not collect it for its name."""
