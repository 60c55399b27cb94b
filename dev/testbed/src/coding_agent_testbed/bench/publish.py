"""Writes figures into docs/operations/performance.md: its tables and plots, and the data they show.

A table is between `<!-- figures: NAME -->` and `<!-- end -->`. Figures of a machine on which other processes
took much are not published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.machine import QUIET
from coding_agent_testbed.bench.plot import plot
from coding_agent_testbed.bench.result import Result
from coding_agent_testbed.bench.show import written

PAGE = "performance.md"


def require_quiet(others: Mapping[str, float], *, quick: bool) -> None:
    """Refuse figures that say little.

    Args:
        others: by benchmark, the share of the machine that other processes took.

    Raises:
        BenchError: why they are not published.
    """
    if quick:
        raise BenchError("not published: the figures of a quick run mean nothing")
    busy = [f"{name} {share:.0%}" for name, share in others.items() if share > QUIET]
    if busy:
        raise BenchError(
            f"not published: other processes took more than {QUIET:.0%} of the machine ({', '.join(busy)}). "
            "Stop them and run the benchmark again."
        )


def publish(
    folder: Path, found: Mapping[str, tuple[Benchmark, Result, float]], machine: Mapping[str, Any]
) -> None:
    """Replace the tables and plots of these benchmarks on the page in `folder`.

    Raises:
        BenchError: the page has no place for one of them.
    """
    page = folder / PAGE
    text = page.read_text(encoding="utf-8")
    for name, (_, result, others) in found.items():
        picture = plot(name, result)
        text = _replaced(text, name, section(name, result, others, machine, plotted=bool(picture)))
        if picture:
            (folder / f"performance-{name}.svg").write_text(picture, encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def section(name: str, result: Result, others: float, machine: Mapping[str, Any], *, plotted: bool) -> str:
    """A benchmark's part of the page, in Markdown."""
    when = datetime.now(UTC).strftime("%-d %B %Y")
    where = f"{machine['cores']} cores ({machine['system']}), Python {machine['python']}"
    lines = [
        _table(result),
        f"Measured on {when}: {where}. Other processes took {others:.0%} of the machine.",
    ]
    if plotted:
        lines.insert(1, f"![The ratios as bars](performance-{name}.svg)")
    return "\n\n".join(lines)


def _table(result: Result) -> str:
    """Ratios first, values in brackets."""
    rows = [["", *(measure.heading for measure in result.measures)]]
    for case in result.cases:
        cells = [case.name]
        for measure in result.measures:
            value, ratio = written(case.values.get(measure.key), measure), result.ratio(case, measure)
            cells.append(value if ratio is None else f"**×{ratio:.2f}** ({value})")
        rows.append(cells)
    rows.insert(1, ["---", *("---:" for _ in result.measures)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _replaced(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- figures: {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise BenchError(f"{PAGE} has no <!-- figures: {name} --> … <!-- end -->")
    return pattern.sub(lambda found: f"{found[1]}\n{content}\n{found[2]}", text)
