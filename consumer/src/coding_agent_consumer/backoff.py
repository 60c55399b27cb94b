"""Waiting: exponential with full jitter between a floor and a cap."""

from __future__ import annotations

import random


def delay(attempt: int, *, first: float, cap: float, chance: random.Random) -> float:
    """Seconds before the attempt after this one.

    Half of the exponential step is kept as a floor, the other half is random: retries of many tasks spread
    out, and none comes at once.

    Args:
        attempt: number of the attempt that failed, from 1.
        first: seconds of the first step.
        cap: seconds of the longest step.
        chance: where the jitter comes from.
    """
    step = min(cap, first * 2.0 ** min(attempt - 1, 30))
    return step / 2 + chance.uniform(0, step / 2)
