"""The story from label to pull request: labels and comment from the forge, the agent's steps from its log."""

from __future__ import annotations

import time
from dataclasses import dataclass

from coding_agent_demo.person import Person, Seen
from coding_agent_demo.processes import DemoError
from coding_agent_demo.screen import Screen

_WORKING, _DONE = "coding agent processing", "coding agent done"


@dataclass
class Story:
    """Follows the issue until its task has ended."""

    screen: Screen
    person: Person

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
            # On a forge that changes one label at a time, both are there for a moment.
            if now.change_url and {_WORKING, _DONE} & set(now.labels) == {_DONE}:
                self._tell_log()
                return now
            if "Coding agent: failed" in now.comment:
                raise DemoError(f"The task failed:\n{now.comment}")
            if time.monotonic() > deadline:
                raise DemoError(
                    f"Nothing came of it within {timeout:.0f} s; see the logs in {self.screen.log.parent}"
                )
            time.sleep(0.1)

    def _tell_issue(self, before: Seen, now: Seen) -> None:
        tell = self.screen.tell
        if set(before.labels) != set(now.labels):
            tell("issue", f"labels: {', '.join(now.labels) or 'none'}", "magenta")
        if before.comment != now.comment and now.comment:
            headline = now.comment.splitlines()[0].strip("*")
            edited = "edited" if before.comments == now.comments else "new"
            tell("issue", f"comment ({edited}): {headline}", "magenta")
        if before.change_url != now.change_url:
            tell("forge", f"change opened: {now.change_url}", "green")

    def _tell_log(self) -> None:
        for line in self.screen.logged():
            who = "receiver" if line.logger.startswith("webhook") else "agent"
            self.screen.tell(who, line.text, "yellow" if line.is_problem else "cyan")
