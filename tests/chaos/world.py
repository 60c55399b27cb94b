"""The seam between those who act in a run of `make chaos` and the system that they act on.

A world is a whole running system with its forge, and the ways to break its parts. People act through
the forge, the nemesis through `faults`, and the judge reads nothing but `records`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from coding_agent_testbed.errors import TestbedError

from tests.chaos.forges import TriedForge
from tests.chaos.promises import Promises


@dataclass(frozen=True)
class Effect:
    """What a fault has hit while it lasted, as a fact that somebody has counted.

    Attributes:
        count: of what it has hit; 0: the fault has changed nothing.
        what: it has counted, in words that follow the number.
    """

    count: int
    what: str

    def __str__(self) -> str:
        return f"{self.count} {self.what}"


Undo = Callable[[], Effect]
"""Ends a fault, and returns what it has hit when the broken part serves again.

Raises:
    WorldError: it does not, within the deadline of its part.
"""
StartFault = Callable[[Random], Undo]
"""Starts a fault.

Raises:
    NothingToBreakError: it has no target.
    WorldError: it cannot be started.
"""


class WorldError(TestbedError):
    """A part of the world failed although nobody asked it to, or did not come back after a fault."""


class NothingToBreakError(Exception):
    """A fault has no target now, such as an attempt's pod while no attempt works: it has not happened."""


class World(Protocol):
    """A running system.

    Attributes:
        forge: where people act, with its public methods.
        repositories: full names of the repositories that are seeded there; at least three.
        people: the role of each login: `member` may give commands, `stranger` may not.
        faults: by kind ("kill operator", "forge answers 502"): a function that starts the fault and returns
            the function that ends it. What it draws (which pod, which request) comes from the given Random.
    """

    @property
    def forge(self) -> TriedForge: ...

    @property
    def repositories(self) -> Sequence[str]: ...

    @property
    def people(self) -> Mapping[str, str]: ...

    @property
    def faults(self) -> Mapping[str, StartFault]: ...

    def records(self) -> Iterator[dict[str, Any]]:
        """Forge events, deliveries and the audit log of the whole run, in the form of `history.py`."""

    def promises(self) -> Promises:
        """What the system promises, as it is configured here."""

    def idle(self) -> bool:
        """Whether nothing is left to do: no task that has not ended, no pod, no delivery under way."""

    def check(self) -> None:
        """See that every part lives that nobody has broken.

        Raises:
            WorldError: one does not; the end of its log is in the message.
        """

    def description(self) -> Mapping[str, str]:
        """Machine, versions and commit, for the report."""

    def logs(self, folder: Path) -> None:
        """Write the logs of all parts there, for a person who looks into a violation."""
