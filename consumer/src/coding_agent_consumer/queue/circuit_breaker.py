"""Decides which tasks may try a forge that does not answer, and how long the others wait.

A consumer works on a few tasks at a time. If each task kept its place while it waits for its forge, the tasks
of a forge that is down would soon take all places, and the tasks of the other forge would wait needlessly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coding_agent_core.runtime.retry import LONGEST_ASKED_WAIT, Clock, backoff

FIRST_WAIT = 10.0
"""Seconds before a forge that did not answer is tried again. Each further failure doubles the wait."""
LONGEST_WAIT = 60.0
"""The most seconds of such a wait, unless the forge asks for more: work goes on soon after an outage."""


@dataclass(eq=False)
class CircuitBreaker:
    """The circuit breaker of one forge: open from a failure of the forge until its next answer.

    While it is open, one task at a time tests the forge, with growing waits.

    example:
        `trial = breaker.trial()`; if it is `None`, give the task back for `breaker.delay()` seconds.
        Call `trial.answered()` or `trial.failed(error.retry_after)` after each request to the forge,
        and `trial.over()` when the task ends.
    """

    clock: Clock = field(default_factory=Clock)
    _failures: int = field(default=0, init=False)
    _retry_at: float = field(default=0.0, init=False)
    _answered_at: float = field(default=float("-inf"), init=False)
    _probe: ForgePermit | None = field(default=None, init=False)

    def trial(self) -> ForgePermit | None:
        """Let a task use the forge until `ForgePermit.over`; `None`: the task must wait for `delay`."""
        now = self.clock.monotonic()
        if not self._failures:
            return ForgePermit(self, now)
        if self._probe is not None or now < self._retry_at:
            return None
        self._probe = ForgePermit(self, now)
        return self._probe

    def delay(self, asked: float | None = None) -> float:
        """Return the seconds until a task that is given back comes again; they vary between the tasks.

        Args:
            asked: seconds that the forge asks this task to wait.
        """
        wait = max(self._retry_at - self.clock.monotonic(), min(asked or 0.0, LONGEST_ASKED_WAIT), 0.0)
        return wait + FIRST_WAIT * (1 + self.clock.chance()) / 2


@dataclass(eq=False)
class ForgePermit:
    """A task's permit to use the forge.

    Attributes:
        since: monotonic time of the last answer to this task, or of the trial's start.
    """

    breaker: CircuitBreaker
    since: float

    def answered(self) -> None:
        """Record that the forge answered, even if it refused: every task may use it."""
        breaker = self.breaker
        breaker._failures, breaker._retry_at, breaker._probe = 0, 0.0, None
        breaker._answered_at = self.since = breaker.clock.monotonic()

    def failed(self, asked: float | None) -> None:
        """Record that the forge was not available, and how many seconds it asked to wait, if it did.

        If other tasks got answers meanwhile, the forge is not down. While the breaker is open, only the task
        that tests the forge counts: others started before it opened, so their failures show nothing new.
        """
        breaker, now = self.breaker, self.breaker.clock.monotonic()
        if breaker._answered_at > self.since:
            return
        if breaker._probe is self or not breaker._failures:
            breaker._failures += 1
            wait = backoff(breaker._failures, FIRST_WAIT, LONGEST_WAIT, breaker.clock.chance())
            breaker._retry_at = now + max(wait, min(asked or 0.0, LONGEST_ASKED_WAIT))

    def over(self) -> None:
        """End the trial: the task no longer tests the forge, whatever the result was."""
        if self.breaker._probe is self:
            self.breaker._probe = None
