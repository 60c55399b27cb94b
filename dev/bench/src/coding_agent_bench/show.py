"""How a result is shown: a table for people, plain data for programs."""

from __future__ import annotations

import os
import platform
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coding_agent_bench.benchmark import Benchmark
from coding_agent_bench.result import Result


def show(console: Console, benchmark: Benchmark, result: Result) -> None:
    """Print the values, and behind them how many times the first line's they are."""
    shown = Table()
    shown.add_column("", no_wrap=True)
    for measure in result.measures:
        shown.add_column(measure.heading, justify="right", no_wrap=True)
    for case in result.cases:
        cells = []
        for measure in result.measures:
            ratio = result.ratio(case, measure)
            value = f"{case.values[measure.key]:,.{measure.digits}f}"
            cells.append(value if ratio is None else f"{value}  [bold]×{ratio:.2f}[/]")
        shown.add_row(case.name, *cells)
    console.print(f"\n[bold]{escape(benchmark.title)}[/]", soft_wrap=True, highlight=False)
    console.print(shown)


def as_json(benchmark: Benchmark, result: Result, seconds: float) -> dict[str, Any]:
    """The same as data; `seconds` is what the whole benchmark took."""
    return {
        "title": benchmark.title,
        "seconds": round(seconds, 1),
        "cases": [
            {
                "name": case.name,
                "values": dict(case.values),
                "ratios": {
                    measure.key: ratio
                    for measure in result.measures
                    if (ratio := result.ratio(case, measure)) is not None
                },
            }
            for case in result.cases
        ],
    }


def machine() -> dict[str, Any]:
    """What it ran on: cores, the load of the last minute before it began, the interpreter."""
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
