"""Limits the cost of one person's refused requests, as anybody can start a task through an issue form.

An issue form applies its label whoever the author is. Only an attempt can ask the forge what a person may do,
so each refused request costs a short-lived pod. After a few refusals, further requests of that person in that
repository end without a pod (docs/decisions/0021).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Cause
from coding_agent_core.task.reasons import Reason

MOST = 3
"""This many refused requests of a person in a repository may cost a pod within `PERIOD`."""
PERIOD = timedelta(hours=1)
_PEOPLE = 10_000
"""This many people are remembered. The one whose last refusal is oldest is dropped first."""
_Person = tuple[str, str]


class UnauthorizedRequests:
    """Remembers in memory who was refused; after a restart, each person may cost a few pods again."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._ends: dict[_Person, deque[datetime]] = defaultdict(lambda: deque(maxlen=MOST))

    def ended(self, task: AgentTask) -> None:
        """Count a task that has ended and whose status is stored, if it was refused."""
        # A task without an attempt was refused here: it must not extend the period.
        if task.status.reason != Reason.NOT_AUTHORIZED or not task.status.attempts:
            return
        person = _person(task)
        times = self._ends.pop(person, deque(maxlen=MOST))
        times.append(self._now())
        self._ends[person] = times
        if len(self._ends) > _PEOPLE:
            del self._ends[next(iter(self._ends))]

    def refusal(self, task: AgentTask) -> str | None:
        """Return, as a sentence for people, why a task ends without an attempt; `None` if it may start."""
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
