"""How long the consumer's connection waits for what."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds, and the dice.

    Attributes:
        connect: for one attempt to connect.
        first_pause: before the second attempt to connect; doubled for each further one.
        longest_pause: cap of that; low, for a broker that is back should not wait for us.
        claim_patience: how long a lock may stay taken before its item counts as held by another.
        reclaim_grace: how long a task that was handed out before is left to its last holder, which may have
            lost nothing but its connection.
        settle: for the confirmation of a retry or dead letter, reconnecting included.
        elsewhere: before a task comes again that another connection of this process works on.
        random: from 0 to 1, spreads reconnections.
    """

    connect: float = 10.0
    first_pause: float = 0.2
    longest_pause: float = 10.0
    claim_patience: float = 3.0
    reclaim_grace: float = 3.0
    settle: float = 60.0
    elsewhere: float = 30.0
    random: Callable[[], float] = random.random

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt to connect, after so many failures: half fixed, half random."""
        full = min(self.longest_pause, self.first_pause * 2.0 ** min(failures, 20))
        spread: float = self.random()
        return full * (0.5 + 0.5 * spread)
