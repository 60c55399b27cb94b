"""What the demo shows: one line for each thing that happens, with its time, and what the agent's log says."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?P<level>\w+) \[(?P<logger>[^\]]*)\] (?P<text>.*)$")
_CONTEXT = re.compile(r"(?: (?:delivery|item)=\S+)+$")


@dataclass(frozen=True)
class LogLine:
    """A line of the agent's log, without its time and context."""

    logger: str
    text: str
    is_problem: bool


@dataclass
class Screen:
    """Prints the story, and reads the log that belongs to it.

    Args:
        log: of the agent. What was logged while everything started is not part of the story.
    """

    console: Console
    log: Path
    began: float = field(default_factory=time.monotonic)
    _read: int = field(init=False)

    def __post_init__(self) -> None:
        self._read = self.log.stat().st_size

    def tell(self, who: str, what: str, color: str) -> None:
        """Print one line: seconds since the start, who, what."""
        at = time.monotonic() - self.began
        self.console.print(f"[dim]{at:5.1f} s[/dim]  [{color}]{who:<9}[/{color}] ", end="")
        self.console.print(what, markup=False, highlight=False, soft_wrap=True)

    def logged(self) -> Iterator[LogLine]:
        """Yield the lines that are new in the log."""
        data = self.log.read_bytes()
        complete = data.rfind(b"\n") + 1
        new, self._read = data[self._read : complete].decode("utf-8", "replace"), complete
        for line in new.splitlines():
            found = _LINE.match(line)
            if found and not found["logger"].startswith("uvicorn"):
                problem = found["level"] in ("WARNING", "ERROR")
                yield LogLine(found["logger"], _CONTEXT.sub("", found["text"]), problem)
