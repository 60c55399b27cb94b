"""The time of one run of `make chaos`: seconds since people began to act, and a way to end early."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What people and the nemesis ask for the time; tests pass one that does not wait."""

    def now(self) -> datetime:
        """The time of day, as the records have it."""

    def elapsed(self) -> float:
        """Seconds since people began to act."""

    def wait_until(self, at: float) -> bool:
        """Return at `at` seconds after the start; false, and at once, if the run is to end."""


class RunClock:
    """The clock of a real run; it starts with the next whole second.

    The forges' times are whole seconds. So acts of the same plan are always in the same second, or never.
    """

    def __init__(self) -> None:
        self._started = time.monotonic() + 1.0 - time.time() % 1.0
        self._stopped = threading.Event()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def wait_until(self, at: float) -> bool:
        return not self._stopped.wait(max(0.0, at - self.elapsed()))

    def stop(self) -> None:
        """End every wait, now and from now on."""
        self._stopped.set()
