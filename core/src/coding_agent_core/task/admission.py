"""What became of a withdrawal, and which labels it answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

_SECOND = timedelta(seconds=1)
"""The precision of forge times (`whole_second`)."""


@dataclass(frozen=True)
class Cancel:
    """The decision to cancel a task."""

    task: str


@dataclass(frozen=True)
class Keep:
    """The decision to cancel nothing.

    Attributes:
        why: the reason, for logs and for the sender.
    """

    why: str


def answered_by_withdrawal(before: datetime | None) -> datetime | None:
    """Return the time up to which applications of the label are answered by a withdrawal.

    Args:
        before: applications before this time were withdrawn; `None` if there was no withdrawal.
    """
    return None if before is None else before - _SECOND
