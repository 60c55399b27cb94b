"""Rows on a terminal: aligned, coloured where there are colours, whole lines where it is piped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH = 1000
"""Columns where no terminal limits them: `grep` and `awk` want one line for each task."""
_COLOURS = {
    "Queued": "cyan",
    "New": "cyan",
    "Running": "blue",
    "Backoff": "yellow",
    "Suspended": "magenta",
    "Succeeded": "green",
    "Failed": "red",
    "Cancelled": "bright_black",
    "Warning": "yellow",
}


def console(stream: TextIO) -> Console:
    """A console on the stream."""
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show_table(to: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in kubectl's manner."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for number, column in enumerate(columns):
        # Names are copied: they stay whole. The rest may be folded on a narrow terminal.
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    to.print(table)


def show_facts(to: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(f"{name}:"), Text(value, style=_COLOURS.get(value.split(" ")[0], "")))
    to.print(table)
