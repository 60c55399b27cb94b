"""What the workspace costs a command: its sandbox and socket against the bare process."""

from __future__ import annotations

import subprocess
import time

from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_core.settings.attempt_settings import Isolation
from coding_agent_core.settings.attempt_settings import WorkspaceSettings as Settings

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.result import Case, Measure, Result, percentile
from coding_agent_testbed.bench.world import World

_COMMAND = "echo done"
_COMMAND_SECONDS = 30
_SHELL = ("/bin/bash", "-c", _COMMAND)
_MEASURES = (Measure("p50_ms", "p50 (ms)", 2), Measure("p99_ms", "p99 (ms)", 2))


async def run(world: World) -> Result:
    """Measure; the base is the bare process. The two take turns, command by command."""
    count = world.size(500, 10)
    settings = Settings(isolation=Isolation.NAMESPACES)
    bare: list[float] = []
    inside: list[float] = []
    async with launch_workspace(settings) as workspace:
        for _ in range(count):
            began = time.perf_counter()
            _bare()
            between = time.perf_counter()
            result = await workspace.run(_COMMAND)
            ended = time.perf_counter()
            if result.exit_code != 0 or result.output.strip() != "done":
                raise BenchError(f"the workspace answered {result}")
            bare.append(between - began)
            inside.append(ended - between)
    return Result(_MEASURES, (_case("a bare process", bare), _case("through the sandbox", inside)))


def _bare() -> None:
    done = subprocess.run(
        _SHELL, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_SECONDS, check=True
    )
    if done.stdout.strip() != b"done":
        raise BenchError(f"{_SHELL} printed {done.stdout!r}")


def _case(name: str, seconds: list[float]) -> Case:
    return Case(name, {f"p{p}_ms": 1000 * percentile(seconds, p) for p in (50, 99)})


BENCHMARK = Benchmark(
    name="workspace",
    title="One command of the model (`echo done`), asked for and answered",
    needs=frozenset(),
    limit=60.0,
    run=run,
)
