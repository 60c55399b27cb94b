"""`kubectl agenttask`: its exit statuses, and its errors, whose messages say what to do."""

from __future__ import annotations

from enum import IntEnum

from coding_agent_core.errors import CodingAgentError


class ExitStatus(IntEnum):
    """Exit status of a command. `docs/kubectl.md` has the same table (a test compares them).

    From 64 on, the numbers are those of sysexits.h; 124 is that of timeout(1).

    Attributes:
        meaning: what a person reads about it.
    """

    meaning: str

    def __new__(cls, number: int, meaning: str) -> ExitStatus:
        status = int.__new__(cls, number)
        status._value_ = number
        status.meaning = meaning
        return status

    DONE = 0, "success; with `wait` and `--wait`: the task succeeded"
    FAILED = 1, "the request cannot be fulfilled; with `wait` and `--wait`: the task failed"
    USAGE = 2, "wrong command line"
    CANCELLED = 3, "with `wait` and `--wait`: the task was cancelled"
    NOT_FOUND = 66, "what you named does not exist, or several tasks match"
    UNREACHABLE = 75, "the API server does not answer, or has a problem that may pass"
    DENIED = 77, "you do not have the permission"
    CONFIGURATION = 78, "there is no usable kubeconfig, or the cluster does not have AgentTasks"
    TIMED_OUT = 124, "with `wait` and `--wait`: the task had not ended after `--timeout`"


class PluginError(CodingAgentError):
    """The command cannot be done as asked."""

    status = ExitStatus.FAILED


class UsageError(PluginError):
    """The command line is wrong."""

    status = ExitStatus.USAGE


class NotFoundError(PluginError):
    """No task matches the name that a person gave, or several do."""

    status = ExitStatus.NOT_FOUND


class UnreachableError(PluginError):
    """The API server cannot be reached, does not answer, or has a problem that may pass."""

    status = ExitStatus.UNREACHABLE


class ConfigurationError(PluginError):
    """The kubeconfig cannot be used, or the cluster has no AgentTask resource; a retry does not help."""

    status = ExitStatus.CONFIGURATION


class DeniedError(PluginError):
    """The API server denies the request, because the person lacks the right."""

    status = ExitStatus.DENIED


class TimedOutError(PluginError):
    """The task has not ended in the time that the person gave."""

    status = ExitStatus.TIMED_OUT


def without_controls(text: str) -> str:
    """Replace the control characters of a text, except line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def plain(text: object) -> str:
    """Return foreign text (titles, messages) on one line, without control characters for terminals."""
    return "".join(char if char.isprintable() else " " for char in str(text))
