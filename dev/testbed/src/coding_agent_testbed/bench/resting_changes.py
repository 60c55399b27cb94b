"""What open changes cost at the forge while nothing happens on them: the requests of the reporter's looks.

Each change has the agent's comment and a green check. The first looks are not counted, because they read
more, and ask until the forge has computed whether the change merges.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting.comment import State
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_record import RoundRecord

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.reporter import REPOSITORY, reporter_of, seed
from coding_agent_testbed.bench.result import Case, Measure, Result
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.until import until_async

_AGENT = "coding-agent-bot"
_LOOK_SECONDS = 0.3
"""Between two looks; by default it is a minute, but only requests are counted here."""
_FIRST_LOOKS = 3
_WAIT_SECONDS = 120.0
_API = re.compile(r"/api/(?:v3|v4|graphql)\b")
_MEASURES = (
    Measure("look", "requests for each look", 2),
    Measure("change", "requests for each look and change", 2),
)


@dataclass(frozen=True)
class _Kind:
    """What is measured: so many open changes on a forge."""

    flavour: str
    changes: int

    @property
    def name(self) -> str:
        forge = {"github": "GitHub", "gitlab": "GitLab"}[self.flavour]
        return f"{forge}, {self.changes} {'change' if self.changes == 1 else 'changes'}"


async def run(world: World) -> Result:
    """Measure; the base is one change on GitHub."""
    many, looks = world.size(20, 3), world.size(5, 2)
    kinds = [_Kind(flavour, changes) for flavour in ("github", "gitlab") for changes in (1, many)]
    cases = []
    for kind in kinds:
        found = await _measured(world, kind, looks)
        cases.append(Case(kind.name, found))
    return Result(_MEASURES, tuple(cases))


async def _measured(world: World, kind: _Kind, looks: int) -> Mapping[str, float]:
    name = f"{kind.flavour}-{kind.changes}"
    namespace = await asyncio.to_thread(world.plane.namespace)
    with ForgeServer(kind.flavour, seed(), world.folder / f"resting-{name}") as forge:
        for number in range(kind.changes):
            _open(forge, f"coding-agent/issue-{number + 1}")
        sections = {"rounds": {"enabled": True, "interval": _LOOK_SECONDS}}
        program = await asyncio.to_thread(reporter_of, world, namespace, forge, f"reporter-{name}", sections)
        with program:
            await program.ready()

            async def looked() -> float:
                found = await program.counters("coding_agent_reporter_scans_total")
                return sum(value for labels, value in found.items() if 'result="done"' in labels)

            async def after(looks: float) -> float:
                async def there() -> float | None:
                    return done if (done := await looked()) >= looks else None

                return await until_async(f"{looks:.0f} looks at {kind.name}", there, timeout=_WAIT_SECONDS)

            first = await after(_FIRST_LOOKS)
            _take(forge)
            last = await after(first + looks)
            requests = _take(forge)
    # A look that has begun and not ended is counted in the requests, and not in the metric.
    counted = sum(requests.values()) / (last - first)
    return {"look": counted, "change": counted / kind.changes}


def _open(forge: ForgeServer, branch: str) -> None:
    """Open a change of the agent, as it is when its task has ended and its checks have passed."""
    sha = forge.push(REPOSITORY, branch, {f"{branch.rpartition('/')[2]}.md": "A proposal\n"}, by=_AGENT)
    number = forge.open_change(REPOSITORY, branch, "main", by=_AGENT)
    state = State(uuid="bench", phase=Phase.SUCCEEDED, branch=branch, rounds=RoundRecord())
    text = f"**Coding agent: done**\n\n{MARKER}{state.model_dump_json(exclude_none=True)} -->"
    forge.comment(REPOSITORY, number, text, kind="change", by=_AGENT)
    forge.add_check(REPOSITORY, sha, "tests", "success", log=b"OK\n")


def _take(forge: ForgeServer) -> Counter[str]:
    """Return the requests to the API since the last call, by method and path."""

    def take() -> Counter[str]:
        requests = forge.sandbox.requests
        counted = Counter(f"{one.method} {one.path}" for one in requests if _API.match(one.path))
        requests.clear()
        return counted

    return forge.run(take)


BENCHMARK = Benchmark(
    name="resting-changes",
    title="Requests to the forge for open changes on which nothing happens",
    needs=frozenset({Part.PLANE}),
    limit=300.0,
    run=run,
)
