"""Shows what happens as it happens: labels and comment from the forge, the agent's steps from its log."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from coding_agent_demo.person import Person, Seen
from coding_agent_demo.world import DemoError

_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?P<level>\w+) \[(?P<logger>[^\]]*)\] (?P<text>.*)$")
_CONTEXT = re.compile(r"(?: (?:delivery|item)=\S+)+$")


@dataclass
class Story:
    """Follows the issue until its task has ended."""

    console: Console
    person: Person
    log: Path
    _began: float = field(default_factory=time.monotonic)
    _read: int = field(init=False)

    def __post_init__(self) -> None:
        """What was logged while everything started is none of the story."""
        self._read = self.log.stat().st_size

    def follow(self, timeout: float) -> Seen:
        """Print every change until the done label is there.

        Args:
            timeout: seconds.

        Raises:
            DemoError: the task failed, or nothing ended in time.
        """
        before = Seen()
        deadline = time.monotonic() + timeout
        while True:
            self._tell_log()
            now = self.person.look()
            self._tell_issue(before, now)
            before = now
            if "coding agent done" in now.labels and now.change_url:
                self._tell_log()
                return now
            if "Coding agent: failed" in now.comment:
                raise DemoError(f"The task failed:\n{now.comment}")
            if time.monotonic() > deadline:
                raise DemoError(
                    f"Nothing came of it within {timeout:.0f} s; see the logs in {self.log.parent}"
                )
            time.sleep(0.1)

    def tell(self, who: str, what: str, colour: str) -> None:
        """One line: seconds since the start, who, what."""
        at = time.monotonic() - self._began
        self.console.print(f"[dim]{at:5.1f} s[/dim]  [{colour}]{who:<9}[/{colour}] ", end="")
        self.console.print(what, markup=False, highlight=False, soft_wrap=True)

    def _tell_issue(self, before: Seen, now: Seen) -> None:
        if set(before.labels) != set(now.labels):
            self.tell("issue", f"labels: {', '.join(now.labels) or 'none'}", "magenta")
        if before.comment != now.comment and now.comment:
            headline = now.comment.splitlines()[0].strip("*")
            edited = "edited" if before.comments == now.comments else "new"
            self.tell("issue", f"comment ({edited}): {headline}", "magenta")
        if before.change_url != now.change_url:
            self.tell("forge", f"change opened: {now.change_url}", "green")

    def _tell_log(self) -> None:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        complete = text.rfind("\n") + 1
        for line in text[self._read : complete].splitlines():
            found = _LINE.match(line)
            if found and not found["logger"].startswith("uvicorn"):
                who = "receiver" if found["logger"].startswith("webhook") else "agent"
                text = _CONTEXT.sub("", found["text"])
                self.tell(who, text, "yellow" if found["level"] in ("WARNING", "ERROR") else "cyan")
        self._read = complete
