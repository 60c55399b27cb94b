"""The errors that a person may meet, each with a sentence that names the fix."""

from coding_agent_testbed.errors import TestbedError


class ClusterError(TestbedError):
    """Anything of the local cluster that went wrong; the message is meant to be read by a person."""

    @property
    def is_transient(self) -> bool:
        """Whether the same may succeed a moment later."""
        return False


class BuildError(ClusterError):
    """A part could not be built."""


class MachineError(ClusterError):
    """This machine lacks something that is needed (root, Linux, a program, a kernel feature)."""
