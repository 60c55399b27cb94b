"""How a result is shown: a table for people, plain data for programs."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.result import Measure, Result

_HEADING = 18
"""Columns of a heading in one line."""


def show(console: Console, benchmark: Benchmark, result: Result) -> None:
    """Print the values, and behind them how many times the first line's they are."""
    shown = Table()
    shown.add_column("", no_wrap=True)
    for measure in result.measures:
        shown.add_column(textwrap.fill(measure.heading, _HEADING), justify="right", no_wrap=True)
    for case in result.cases:
        cells = []
        for measure in result.measures:
            ratio = result.ratio(case, measure)
            value = written(case.values.get(measure.key), measure)
            cells.append(value if ratio is None else f"[bold]×{ratio:.2f}[/]  {value}")
        shown.add_row(case.name, *cells)
    console.print(f"\n[bold]{escape(benchmark.title)}[/]", soft_wrap=True, highlight=False)
    console.print(shown)


def written(value: float | None, measure: Measure) -> str:
    """The value as people read it."""
    return "" if value is None else f"{value:,.{measure.digits}f}"


def as_json(benchmark: Benchmark, result: Result, seconds: float, others: float) -> dict[str, Any]:
    """The same as data.

    Args:
        seconds: what the whole benchmark took.
        others: the share of the machine that other processes took meanwhile.
    """
    return {
        "title": benchmark.title,
        "seconds": round(seconds, 1),
        "others": round(others, 3),
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
