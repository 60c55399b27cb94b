"""The reporter's two conditions. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from coding_agent_core.agenttask import Condition

Kind = Literal["Acknowledged", "Reported"]
_NO = datetime(1970, 1, 1, tzinfo=UTC)


def acknowledged(message: str) -> Condition:
    """A bot label on the item from now on is a new application: our swap was shown, or cannot be."""
    return _condition("Acknowledged", "True", "Shown", message)


def reported(message: str) -> Condition:
    """The item shows the task again."""
    return _condition("Reported", "True", "Shown", message)


def unreported(reason: str, message: str) -> Condition:
    """The item does not show the task as it is; since when, the condition's time tells."""
    return _condition("Reported", "False", reason, message)


def _condition(kind: Kind, status: Literal["True", "False"], reason: str, message: str) -> Condition:
    # The time is set when it is written.
    return Condition(
        type=kind, status=status, reason=reason, message=message[:4096], last_transition_time=_NO
    )
