"""What the reporter remembers of a task between two looks. It may be lost: the next look finds it again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from coding_agent_core.forge.protocol import Comment
from coding_agent_core.reporting.render import State

from coding_agent_operator.reporter.decide import Doubt

NEVER = float("-inf")


@dataclass
class Absence:
    """The forge does not answer.

    Attributes:
        since: aware; when it was noticed.
        began: monotonic time of the same moment.
        why: what was said last.
    """

    since: datetime
    began: float
    why: str = ""


@dataclass
class Memory:
    """Of one task.

    Attributes:
        comment: our comment, as it was written or found last; its body is what is shown.
        unmoved: what was shown, without its place in the queue.
        before: what the comment said before this task was shown on it; `None`: nobody has looked yet.
        written: monotonic time of the last edit of the comment.
        due: monotonic time at which the item is to be looked at again although nothing happens.
        ended: since when the end is shown on the item.
        doubt: what the item says against the task.
        failures: looks that failed since the last one that did not.
        absence: of the forge to these looks; it may answer others.
        told: the trouble that people were told of.
        cancelled: who or what cancelled it, as far as the task told when it was read last.
    """

    comment: Comment | None = None
    unmoved: str = ""
    before: tuple[State, ...] | None = None
    written: float = NEVER
    due: float = NEVER
    ended: datetime | None = None
    doubt: Doubt | None = None
    failures: int = 0
    absence: Absence | None = None
    told: str = ""
    cancelled: str = ""
