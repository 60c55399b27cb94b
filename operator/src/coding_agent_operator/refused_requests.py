"""Bounds what refused requests of a person cost: an issue form applies its label whoever the author is.

Only an attempt can ask the forge what a person may do, so a refused request costs a short pod. After some of
them, further requests of that person in that repository end without one (docs/decisions/0021).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from coding_agent_core.agenttask import AgentTask
from coding_agent_core.reasons import Reason
from coding_agent_core.tasks import Cause

MOST = 3
"""Refused requests of a person in a repository that may cost a pod within `PERIOD`."""
PERIOD = timedelta(hours=1)
_PEOPLE = 10_000
"""People that are remembered at most; the one whose refusal is oldest is forgotten first."""
_Person = tuple[str, str]


class RefusedRequests:
    """Remembers who was refused.

    A new process starts without memory, so each person may cost some pods again.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._ends: dict[_Person, deque[datetime]] = defaultdict(lambda: deque(maxlen=MOST))

    def ended(self, task: AgentTask) -> None:
        """A task has ended, and its status is stored."""
        # A task without an attempt was refused because of these: it must not make the time longer.
        if task.status.reason != Reason.NOT_AUTHORIZED or not task.status.attempts:
            return
        person = _person(task)
        times = self._ends.pop(person, deque(maxlen=MOST))
        times.append(self._now())
        self._ends[person] = times
        if len(self._ends) > _PEOPLE:
            del self._ends[next(iter(self._ends))]

    def refusal(self, task: AgentTask) -> str | None:
        """Why a task that has not started ends without an attempt, for people; `None` if it may start."""
        if task.spec.trigger.cause is not Cause.LABEL or not task.spec.user or task.status.attempts:
            return None
        times = self._ends.get(_person(task))
        if times is None or len(times) < MOST or (until := times[0] + PERIOD) <= self._now():
            return None
        return (
            f"The last {MOST} requests of {task.spec.user} in {task.spec.source.repository} were refused, so "
            f"further ones are not checked until {until:%Y-%m-%d %H:%M} UTC."
        )


def _person(task: AgentTask) -> _Person:
    return task.repository_hash, task.spec.user.casefold()
