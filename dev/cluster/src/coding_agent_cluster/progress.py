"""What a person sees while things are built and started: one line for each step, on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show ``what`` with a spinner while it lasts and the seconds it took when done.

    Without a terminal (CI) the line appears when the step begins to matter: at its end, or at its failure.
    """
    start = time.monotonic()
    try:
        with console.status(what):
            yield
    except BaseException:
        _line("[red]✗[/]", what, start)
        raise
    _line("[green]✓[/]", what, start)


def note(text: str) -> None:
    """Say something that is not a step."""
    console.print(text, markup=False, soft_wrap=True)


def _line(mark: str, what: str, start: float) -> None:
    console.print(f"{mark} {what:<44} {time.monotonic() - start:6.1f} s", soft_wrap=True)
