"""The CI of the forge: lets checks of the bot's changes fail and pass, as people have chosen."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from coding_agent_testbed.forge.model import Check, Item, Kind

from tests.chaos.forges import ForgeRefusal, PeoplesForge

NAME = "unit"
_STEP_SECONDS = 0.5
_WORK_SECONDS = 1.5
_TESTS = ("area", "border", "color", "depth", "edge", "frame", "grid", "height")


class Behavior(StrEnum):
    """How the check of a change ends."""

    UNTIL_THE_NEXT_PUSH = "fails on the first commit only"
    FOR_GOOD = "fails on each commit, each time in another test"
    SAME_ERROR = "fails on each commit with the same error"
    PASSES_AGAIN = "fails on each commit, and passes when it runs again"
    FAILS_AGAIN = "passes on each commit, fails when it runs again, and then passes"


@dataclass
class _Watched:
    """A change with a check.

    Attributes:
        heads: its commits, in the order in which they were seen.
        begun: when a check was first seen to run (monotonic), by its id.
    """

    repository: str
    number: int
    behavior: Behavior
    heads: list[str] = field(default_factory=list)
    begun: dict[int, float] = field(default_factory=dict)


@dataclass
class Ci:
    """Runs one check for each change that has a behavior, on each of its commits."""

    forge: PeoplesForge
    _changes: list[_Watched] = field(default_factory=list)

    def watch(self, repository: str, item: Item, behavior: Behavior) -> None:
        """Check a change from now on, unless it has a check already."""
        if (repository, item.number) not in [(known.repository, known.number) for known in self._changes]:
            self._changes.append(_Watched(repository, item.number, behavior))

    def newest(self, repository: str, item: Item) -> Check | None:
        """The newest check of a change's head."""
        checks = self.forge.checks(repository, item.tips.head_sha)
        return next((check for check in checks if check.name == NAME), None)

    def run(self, over: threading.Event) -> None:
        """Work until the run is over."""
        while not over.wait(_STEP_SECONDS):
            for change in list(self._changes):
                with suppress(ForgeRefusal):  # the forge is broken just now: the next step tries again
                    self.step(change, time.monotonic())

    def step(self, change: _Watched, now: float) -> None:
        """Begin the check of a new commit of an open change, and end one that has worked for long enough."""
        item = self.forge.item(change.repository, change.number, Kind.CHANGE)
        if not item.open:
            return
        head = item.tips.head_sha
        if head not in change.heads:
            change.heads.append(head)
        check = self.newest(change.repository, item)
        if check is None:
            self.forge.add_check(change.repository, head, NAME, log=b"")
        elif not check.result and now - change.begun.setdefault(check.id, now) >= _WORK_SECONDS:
            position = change.heads.index(check.sha)
            result = "failure" if _fails(change.behavior, position, check.attempt) else "success"
            test = _TESTS[position % len(_TESTS) if change.behavior is Behavior.FOR_GOOD else 0]
            log = f"1 failed\nFAILED: test_{test}\n" if result == "failure" else "1 passed\n"
            self.forge.add_check(change.repository, check.sha, NAME, result, log=log.encode())


def _fails(behavior: Behavior, position: int, attempt: int) -> bool:
    """Whether the check of the commit at this position, from 0, fails in this attempt, from 1."""
    match behavior:
        case Behavior.UNTIL_THE_NEXT_PUSH:
            return position == 0
        case Behavior.FOR_GOOD | Behavior.SAME_ERROR:
            return True
        case Behavior.PASSES_AGAIN:
            return attempt == 1
        case Behavior.FAILS_AGAIN:
            return attempt == 2
