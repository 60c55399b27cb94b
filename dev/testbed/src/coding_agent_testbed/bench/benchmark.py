"""What a benchmark is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coding_agent_testbed.bench.result import Result
from coding_agent_testbed.bench.world import Part, World


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        title: what is compared, for the table.
        needs: parts of the world that it uses.
        limit: seconds that it may take; beyond them it has failed.
        run: measures; with `world.quick` as little as shows that it works.
    """

    name: str
    title: str
    needs: frozenset[Part]
    limit: float
    run: Callable[[World], Awaitable[Result]]
