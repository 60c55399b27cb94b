"""How long a task waits between two attempts. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from coding_agent_core.agenttask import AttemptStatus
from coding_agent_core.reasons import PodReason, Reason
from coding_agent_core.retry import asked_wait, backoff
from coding_agent_core.settings.operator import Policy

AT_ONCE = (PodReason.SUSPENDED, Reason.ENVIRONMENT_CHANGED)
"""Reasons after which the next attempt waits for nothing, and that are no sign of a problem."""


def delay_after(uid: str, attempts: Sequence[AttemptStatus], policy: Policy) -> float:
    """Seconds between the end of the last attempt and the next; 0 after one that shows no problem.

    The jitter is seeded by the task and its attempt, so that a restart of the operator changes nothing.
    """
    last = attempts[-1]
    if last.reason in AT_ONCE:
        return 0.0
    failures = sum(1 for attempt in attempts if attempt.reason not in AT_ONCE)
    return backoff(failures, policy.backoff_base, policy.backoff_max, _chance(uid, last))


def _chance(uid: str, last: AttemptStatus) -> float:
    return random.Random(f"{uid}/{last.number}").random()


def next_attempt_time(
    uid: str,
    attempts: Sequence[AttemptStatus],
    policy: Policy,
    now: datetime,
    *,
    asked: float | None = None,
    stored: datetime | None = None,
) -> datetime | None:
    """When the next attempt may start.

    Args:
        now: no wait is longer than `policy.backoff_max`: if the time is farther away, the clock was set back,
            and the attempt is due.
        asked: seconds that the model or the forge asked to wait when the last attempt ended.
        stored: what was decided when it ended; ignored if it is impossible.
    """
    end = attempts[-1].completion_time if attempts else None
    if end is None:
        return None
    longest = timedelta(seconds=policy.backoff_max)
    soonest = end + timedelta(seconds=delay_after(uid, attempts, policy))
    if asked is not None:
        wait = asked_wait(asked, policy.backoff_max, _chance(uid, attempts[-1]))
        soonest = max(soonest, end + timedelta(seconds=wait))
    if stored is not None and end <= stored <= end + longest:
        soonest = max(soonest, stored)
    return soonest if soonest <= now + longest else now
