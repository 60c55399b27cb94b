"""`python -m coding_agent_testbed.bench [NAME ...] [--quick] [--json FILE]`: measure, as ratios of a run."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coding_agent_core.errors import CodingAgentError
from httpx2 import HTTPError
from rich.console import Console

from coding_agent_testbed.bench import (
    attempt,
    big_repository,
    ended_tasks,
    flood,
    gateway,
    operator,
    overload,
    receiver,
    relist,
    reporter,
    resting_changes,
    start,
    workspace,
)
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.machine import Watched, describe
from coding_agent_testbed.bench.program import ROOT
from coding_agent_testbed.bench.publish import publish, require_quiet
from coding_agent_testbed.bench.result import Result
from coding_agent_testbed.bench.show import as_json, show
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.cluster.progress import note, step
from coding_agent_testbed.errors import TestbedError

# The benchmarks that fill the control plane come last.
BENCHMARKS = {
    entry.BENCHMARK.name: entry.BENCHMARK
    for entry in (
        attempt,
        big_repository,
        workspace,
        gateway,
        receiver,
        flood,
        overload,
        operator,
        reporter,
        resting_changes,
        ended_tasks,
        relist,
        start,
    )
}
USUAL = {name: benchmark for name, benchmark in BENCHMARKS.items() if Part.NODE not in benchmark.needs}
"""The benchmarks that run when no names are given. A node needs root and minutes to start."""

_WIDTH = 150
"""Columns of a table at least, also where the output is not a terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when all that was asked for was measured."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - BENCHMARKS.keys()):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    chosen = [benchmark for name, benchmark in BENCHMARKS.items() if name in (options.names or USUAL)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="coding-agent-bench-") as folder:
        # Workspaces and their users may pass through.
        Path(folder).chmod(0o711)
        try:
            with World(Path(folder), quick=options.quick, scale=options.scale) as world:
                return asyncio.run(_run(world, chosen, options))
        except (TestbedError, RuntimeError) as error:
            note(f"error: {error}")
            return 1
        except KeyboardInterrupt:
            note("interrupted")
            return 130


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(
        f"  {name:<12} {benchmark.title}{'' if name in USUAL else ' (only if it is named; needs root)'}"
        for name, benchmark in BENCHMARKS.items()
    )
    parser = argparse.ArgumentParser(
        prog="coding_agent_testbed.bench",
        description=__doc__,
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which benchmarks (default: all but those that need a node)"
    )
    parser.add_argument("--quick", action="store_true", help="as little as shows that it works; no figures")
    parser.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="times the size of big-repository",
    )
    parser.add_argument("--publish", action="store_true", help="write docs/operations/performance.md too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


async def _run(world: World, chosen: Sequence[Benchmark], options: argparse.Namespace) -> int:
    console, machine = Console(), describe()
    console.width = max(console.width, _WIDTH)
    await world.start(frozenset(part for item in chosen for part in item.needs))
    found: dict[str, dict[str, Any]] = {}
    results: dict[str, tuple[Benchmark, Result, float]] = {}

    async def measure(entry: Benchmark) -> None:
        began, watched = time.monotonic(), Watched()
        result = await _result(world, entry)
        if result is not None:
            others = watched.others()
            show(console, entry, result)
            note(f"other processes took {others:.0%} of the machine")
            found[entry.name] = as_json(entry, result, time.monotonic() - began, others)
            results[entry.name] = entry, result, others

    if world.quick:
        # All at once: the figures mean nothing then, and are there in half the time.
        await asyncio.gather(*(measure(item) for item in chosen))
    else:
        for item in chosen:
            await measure(item)
    if options.json is not None:
        ordered = {item.name: found[item.name] for item in chosen if item.name in found}
        figures = {"quick": world.quick, "machine": machine, "benchmarks": ordered}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.publish:
        require_quiet({name: others for name, (_, _, others) in results.items()}, quick=world.quick)
        publish(ROOT / "docs" / "operations", results, machine)
    return 0 if len(found) == len(chosen) else 1


async def _result(world: World, benchmark: Benchmark) -> Result | None:
    """What it finds; `None` if it fails, and why is said."""
    try:
        with step(benchmark.name):
            async with asyncio.timeout(benchmark.limit):
                return await benchmark.run(world)
    except TimeoutError:
        note(f"{benchmark.name}: took more than {benchmark.limit:.0f} s")
    except (TestbedError, CodingAgentError, HTTPError, OSError) as error:
        note(f"{benchmark.name}: {error}")
    return None


if __name__ == "__main__":
    sys.exit(main())
