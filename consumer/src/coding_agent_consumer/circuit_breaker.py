"""Which tasks may try a forge that does not answer, and how long the others wait.

A consumer works on a few tasks at a time. If each task waited for its forge in its place, the tasks of a
forge that is down would soon have all places, and those of the other forge would wait for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coding_agent_core.retry import Clock, backoff

FIRST_WAIT = 10.0
"""Seconds before a forge that did not answer is tried again; doubled for each further failure."""
LONGEST_WAIT = 60.0
"""Seconds of one such wait, unless the forge asks for more: work goes on soon after the end of an outage."""
LONGEST_ASKED_WAIT = 3600.0
"""Seconds that a forge may ask for: within an hour GitHub's rate limit is reset."""


@dataclass(eq=False)
class CircuitBreaker:
    """Open while a forge does not answer, as far as known: one task at a time tests it, with growing waits.

    It closes with the first answer.
    """

    clock: Clock = field(default_factory=Clock)
    _failures: int = field(default=0, init=False)
    _retry_at: float = field(default=0.0, init=False)
    _answered_at: float = field(default=float("-inf"), init=False)
    _probe: Trial | None = field(default=None, init=False)

    def trial(self) -> Trial | None:
        """A task may use the forge; `None`: it waits for `delay`. A trial must be `over` at some time."""
        now = self.clock.monotonic()
        if not self._failures:
            return Trial(self, now)
        if self._probe is not None or now < self._retry_at:
            return None
        self._probe = Trial(self, now)
        return self._probe

    def delay(self, asked: float | None = None) -> float:
        """Seconds after which a task that is given back comes again; spread, so that not all come at once.

        Args:
            asked: seconds that the forge asks this task to wait.
        """
        wait = max(self._retry_at - self.clock.monotonic(), min(asked or 0.0, LONGEST_ASKED_WAIT), 0.0)
        return wait + FIRST_WAIT * (1 + self.clock.chance()) / 2


@dataclass(eq=False)
class Trial:
    """One task's use of the forge.

    Attributes:
        since: monotonic time of the last answer to it, or of its start.
    """

    breaker: CircuitBreaker
    since: float

    def answered(self) -> None:
        """The forge has answered, be it with a refusal: everybody may use it."""
        breaker = self.breaker
        breaker._failures, breaker._retry_at, breaker._probe = 0, 0.0, None
        breaker._answered_at = self.since = breaker.clock.monotonic()

    def failed(self, asked: float | None) -> None:
        """The forge was not available, and asks to wait so many seconds, if it says so.

        If others had answers meanwhile, it is not down. Failures of tasks that were tried before the breaker
        opened show nothing new.
        """
        breaker, now = self.breaker, self.breaker.clock.monotonic()
        if breaker._answered_at > self.since:
            return
        if breaker._probe is self or not breaker._failures:
            breaker._failures += 1
            wait = backoff(breaker._failures, FIRST_WAIT, LONGEST_WAIT, breaker.clock.chance())
            breaker._retry_at = now + max(wait, min(asked or 0.0, LONGEST_ASKED_WAIT))

    def over(self) -> None:
        """The task does not test the forge any more, whatever came of it."""
        if self.breaker._probe is self:
            self.breaker._probe = None
