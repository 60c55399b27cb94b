"""A task's phases, as people see them: the same words in comments, columns, metrics and logs."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a task stands."""

    QUEUED = "Queued"
    RUNNING = "Running"
    BACKOFF = "Backoff"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        """The task has ended."""
        return self in _TERMINAL


_TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED})


def terminal_phase(status: str | None, reason: str | None) -> Phase | None:
    """How a task ended, by its `Succeeded` condition; `None` while it has not ended."""
    if status == "True":
        return Phase.SUCCEEDED
    if status == "False":
        return Phase.CANCELLED if reason == Phase.CANCELLED else Phase.FAILED
    return None
