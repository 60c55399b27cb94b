"""What a person sees while things are built and started: one line for each step, on standard error."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

console = Console(stderr=True, highlight=False)
_EVERY_S = 30.0
"""Seconds between two lines of a step that lasts, if there is no terminal for a spinner."""


@contextmanager
def step(what: str, grows: Path | None = None) -> Iterator[None]:
    """Show ``what`` with a spinner while it lasts, and the seconds it took when done.

    Without a terminal there is a line at the start and one every 30 s, so that nobody takes a long build for
    a hanging one.

    Args:
        grows: a folder or a file whose size shows the progress.
    """
    start, ended = time.monotonic(), threading.Event()
    watching = threading.Thread(target=_say_that_it_lasts, args=(what, start, ended, grows), daemon=True)
    if not console.is_terminal:
        console.print(f"[dim]…[/] {what}", soft_wrap=True)
        watching.start()
    try:
        with console.status(what):
            yield
    except BaseException:
        ended.set()
        _line("[red]✗[/]", what, start)
        raise
    ended.set()
    _line("[green]✓[/]", what, start)


def note(text: str) -> None:
    """Say something that is not a step."""
    console.print(text, markup=False, soft_wrap=True)


def _say_that_it_lasts(what: str, start: float, ended: threading.Event, grows: Path | None) -> None:
    while not ended.wait(_EVERY_S):
        _line("[dim]…[/]", what, start, f", {_megabytes(grows)} MB so far" if grows is not None else "")


def _megabytes(path: Path) -> int:
    """Return the size of a folder, or of a file, of which parts may disappear meanwhile."""
    size = 0
    for one in (path, *path.rglob("*")):
        try:
            size += one.lstat().st_size
        except OSError:
            continue
    return size // 2**20


def _line(mark: str, what: str, start: float, more: str = "") -> None:
    console.print(f"{mark} {what:<44} {time.monotonic() - start:6.1f} s{more}", soft_wrap=True)
