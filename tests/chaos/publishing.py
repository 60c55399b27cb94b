"""Keeps judged runs in docs/reliability-runs, and lists them on docs/reliability.md.

    publish(Path("out"), ROOT / "docs")

A run's raw history is kept too, so that anybody can judge it again; its SHA-256 is in the report.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.judging import HISTORY, RUN, VERDICT, read_setup

PAGE, RUNS = "reliability.md", "reliability-runs"
_TABLE = re.compile(r"(<!-- runs -->\n).*?(<!-- end -->)", re.DOTALL)
_NONE = "No run has been published yet."
_HEAD = ("run", "mode", "forge", "seed", "faults", "expected", "observed", "unknown", "outcome")


def publish(folder: Path, docs: Path) -> Path:
    """Keep a judged run, whatever its outcome, and write the table anew; the folder that keeps it.

    Raises:
        OSError: the run has not been judged, or the page is not there.
        FileExistsError: the run is there already.
    """
    setup = read_setup(folder)
    name = f"{setup.started:%Y-%m-%d-%H%M}-{setup.mode}-{setup.forge}-{setup.seed}-{setup.faults}-faults"
    kept = docs / RUNS / name
    files = [
        folder / HISTORY,
        folder / RUN,
        folder / VERDICT,
        folder / "report.md",
        *sorted(folder.glob("item-*.svg")),
    ]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise FileNotFoundError(f"{folder} has no {', '.join(missing)}: judge it first")
    kept.mkdir(parents=True)
    for file in files:
        shutil.copy(file, kept / file.name)
    page = docs / PAGE
    page.write_text(with_table(page.read_text(encoding="utf-8"), docs), encoding="utf-8")
    return kept


def with_table(text: str, docs: Path) -> str:
    """The page's text with the table of all kept runs between `<!-- runs -->` and `<!-- end -->`.

    Raises:
        ValueError: the page has no such place.
    """
    if not _TABLE.search(text):
        raise ValueError(f"{PAGE} has no <!-- runs --> … <!-- end -->")
    table = "\n".join(_rows(docs)) or _NONE
    return _TABLE.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)


def _rows(docs: Path) -> Iterator[str]:
    """The lines of the table, the newest run first; none if no run is kept."""
    kept = sorted((file.parent for file in docs.glob(f"{RUNS}/*/{VERDICT}")), reverse=True)
    if kept:
        yield "| " + " | ".join(_HEAD) + " |"
        yield "|" + "---|" * len(_HEAD)
    for folder in kept:
        setup = read_setup(folder)
        verdict: dict[str, Any] = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        figures = verdict["figures"]
        minutes = (setup.ended - setup.started).total_seconds() / 60
        cells = (
            f"[{setup.started:%Y-%m-%d}, {minutes:.0f} min]({RUNS}/{folder.name}/report.md)",
            setup.mode,
            setup.forge,
            str(setup.seed),
            str(verdict["faults"]),
            *(str(figures[name]) for name in ("expected", "observed", "unknown")),
            verdict["outcome"],
        )
        yield "| " + " | ".join(cells) + " |"
