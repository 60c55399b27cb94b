"""How long to wait before the next attempt: exponential, full jitter, capped, the same at every look.

Full jitter spreads the tasks that failed together (https://aws.amazon.com/builders-library, *Timeouts,
retries and backoff with jitter*); the seed is the task and its attempt, so that a restart changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from coding_agent_core.agenttask import AttemptStatus

from coding_agent_operator.settings import Policy


def delay(uid: str, attempts: Sequence[AttemptStatus], policy: Policy) -> float:
    """Seconds after the end of the last attempt; 0 after one that was only suspended."""
    last = attempts[-1]
    if last.reason == "Suspended":
        return 0.0
    failures = sum(1 for attempt in attempts if attempt.reason != "Suspended")
    bound = min(policy.backoff_max, policy.backoff_base * 2.0 ** min(failures - 1, 30))
    return random.Random(f"{uid}/{last.number}").uniform(0, bound)


def next_time(
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
        now: if the time is farther away than any wait can be, the clock was set back, and it is due.
        asked: seconds that the model or the forge asked for when the last attempt ended.
        stored: what was decided when it ended; believed as far as it is possible at all.
    """
    end = attempts[-1].completion_time if attempts else None
    if end is None:
        return None
    soonest = end + timedelta(seconds=delay(uid, attempts, policy))
    if asked is not None:
        soonest = max(soonest, end + timedelta(seconds=min(asked, policy.backoff_max)))
    if stored is not None and end <= stored <= end + timedelta(seconds=policy.backoff_max):
        soonest = max(soonest, stored)
    return soonest if possible(soonest, now, policy) else now


def possible(soonest: datetime, now: datetime, policy: Policy) -> bool:
    """No wait is longer than that."""
    return soonest <= now + timedelta(seconds=policy.backoff_max)
