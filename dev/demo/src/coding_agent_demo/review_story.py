"""The story after the change was opened: a failed check, a review, and how the agent responds to both."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from coding_agent_core.forge.changes import (
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    CheckResult,
    CheckState,
    Remark,
    ReviewThread,
)
from coding_agent_core.reporting.comment import read_state
from coding_agent_core.task.round_cause import RoundKind
from coding_agent_core.task.round_record import RoundEnd

from coding_agent_demo.person import Person, Seen, SeenChange
from coding_agent_demo.processes import DemoError
from coding_agent_demo.screen import Screen
from coding_agent_demo.world import CHECKS

_Seen = TypeVar("_Seen")
_PATH, _CODE = "pricing/discount.py", "quantity >= pieces"
_REMARK = "Please say in the docstring where a step begins."
_PERSON = "alice"
_WORDS: dict[CheckConclusion | None, str] = {
    CheckConclusion.SUCCESS: "passed",
    CheckConclusion.FAILURE: "failed",
}
_ROUND = re.compile(r"(?:\w+ )?round \d+ of \d+")
_HIDDEN = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass
class ReviewStory:
    """Follows a change from its failed check to its merge. Each step has a deadline.

    Attributes:
        step_seconds: how long a step may take.
        quiet_seconds: how long nothing may happen after the merge; the agent looks at its changes every 2 s.
        pause: seconds between two looks.
    """

    screen: Screen
    person: Person
    step_seconds: float = 180.0
    quiet_seconds: float = 4.0
    pause: float = 0.2
    _number: int = 0
    _headline: str = ""
    _heads: list[str] = field(default_factory=list)

    def play(self) -> None:
        """Tell the whole story.

        Raises:
            DemoError: a step did not happen in time; names the step and what was there to see.
        """
        tell = self.screen.tell
        opened = self._until_opened()
        noun = "merge request" if "/merge_requests/" in opened.change_url else "pull request"
        tell("agent", f"opens the {noun} {opened.change_url}", "cyan")
        self._number = int(opened.change_url.rpartition("/")[2])

        red = self._until("the check of the new change fails", _ended)
        self._tell_checks(red)
        if not _failed(red):
            raise DemoError(f"The check `examples` should have failed. {_shown(red)}")
        self._until_pushed("a round corrects what the check says")
        self._until_green("all checks pass after the round")

        at = self.person.comment_on_line(self._look().snapshot, _PATH, _CODE, _REMARK)
        tell(_PERSON, f"comments on {_PATH}, line {at}, and requests changes: {_REMARK}", "bold")
        self._until_pushed("a round does what the comment asks for")
        answered = self._until("the agent answers in the thread", lambda one: len(_replies(one)) > 0)
        tell("agent", f"answers in the thread: {_text(_replies(answered)[0])}", "cyan")
        self._until("the agent asks for another review", _asks_again)
        tell("agent", f"requests another review from {_PERSON}", "cyan")
        green = self._until_green("all checks pass after the review")

        self.person.approve_and_merge(green.snapshot)
        tell(_PERSON, "approves and merges", "bold")
        self._until("the change is merged", lambda one: one.snapshot.state is ChangeState.MERGED)
        self._until_closed()
        tell("forge", f"{noun} merged, issue 1 closed", "green")
        self._see_that_it_ended()

    def _until_opened(self) -> Seen:
        return self._wait(
            "the agent opens a change",
            self.person.look,
            lambda seen: bool(seen.change_url),
            lambda seen: f"Seen: labels {', '.join(seen.labels)}; comment {seen.comment[:200]!r}",
        )

    def _until_closed(self) -> None:
        self._wait(
            "the merge closes the issue",
            self.person.look,
            lambda seen: not seen.is_open,
            lambda seen: "Seen: the issue is open",
        )

    def _until_pushed(self, step: str) -> None:
        before = self._heads[-1]
        seen = self._until(step, lambda one: one.snapshot.head_commit != before)
        commit = seen.snapshot.head_commit
        self.screen.tell("agent", f"pushes {commit[:8]}: {self.person.subject(commit)}", "cyan")

    def _until_green(self, step: str) -> SeenChange:
        head = self._heads[-1]
        seen = self._until(step, lambda one: _ended(one) and one.snapshot.head_commit == head)
        self._tell_checks(seen)
        if _failed(seen):
            raise DemoError(f"This did not happen: {step}. {_shown(seen)}")
        return seen

    def _until(self, step: str, happened: Callable[[SeenChange], bool]) -> SeenChange:
        return self._wait(step, self._look, happened, _shown)

    def _wait(
        self,
        step: str,
        look: Callable[[], _Seen],
        happened: Callable[[_Seen], bool],
        shown: Callable[[_Seen], str],
    ) -> _Seen:
        deadline = time.monotonic() + self.step_seconds
        while True:
            for line in self.screen.logged():
                if line.is_problem:
                    self.screen.tell("log", line.text, "yellow")
            seen = look()
            if happened(seen):
                return seen
            if time.monotonic() > deadline:
                raise DemoError(
                    f"This did not happen within {self.step_seconds:.0f} s: {step}. {shown(seen)}. "
                    f"See the logs in {self.screen.log.parent}"
                )
            time.sleep(self.pause)

    def _look(self) -> SeenChange:
        seen = self.person.look_at_change(self._number)
        headline = _headline(seen)
        if headline and headline != self._headline:
            self.screen.tell("comment", headline, "magenta")
            self._headline = headline
        if seen.snapshot.head_commit not in self._heads:
            self._heads.append(seen.snapshot.head_commit)
        return seen

    def _tell_checks(self, seen: SeenChange) -> None:
        results = ", ".join(
            f"{name} {_WORDS.get(one.conclusion, one.conclusion)}"
            for name, one in sorted(_checks(seen).items())
        )
        color = "red" if _failed(seen) else "green"
        self.screen.tell("ci", f"{seen.snapshot.head_commit[:8]}: {results}", color)

    def _see_that_it_ended(self) -> None:
        """See that each cause had one round, and that nothing follows the merge.

        Raises:
            DemoError: there is more or less than the story told.
        """
        deadline = time.monotonic() + self.quiet_seconds
        while time.monotonic() < deadline:
            self._look()
            time.sleep(self.pause)
        seen, issue = self._look(), self.person.look()
        record = read_state(seen.comments[0]) if len(seen.comments) == 1 else None
        rounds = record.rounds.rounds if record is not None and record.rounds is not None else ()
        found = {
            "rounds": [(one.kind, one.end) for one in rounds],
            "commits": len(self._heads),
            "comments on the issue": issue.comments,
            "comments on the change": len(seen.comments),
            "replies": len(_replies(seen)),
        }
        expected = {
            "rounds": [(RoundKind.CHECKS, RoundEnd.PUSHED), (RoundKind.REVIEW, RoundEnd.PUSHED)],
            "commits": 3,
            "comments on the issue": 1,
            "comments on the change": 1,
            "replies": 1,
        }
        if found != expected:
            raise DemoError(f"The story should end with {expected}, but there are {found}.")
        self.screen.tell("agent", "does nothing more: 2 rounds, 3 commits, 1 reply", "cyan")


def _checks(seen: SeenChange) -> dict[str, CheckResult]:
    """Return the checks of CI by the name that the seed gives them."""
    named = {one.name.rpartition(" / ")[2]: one for one in seen.snapshot.checks}
    return {name: check for name, check in named.items() if name in CHECKS}


def _ended(seen: SeenChange) -> bool:
    checks = _checks(seen)
    return checks.keys() == CHECKS.keys() and all(
        one.state is CheckState.COMPLETED for one in checks.values()
    )


def _failed(seen: SeenChange) -> bool:
    return any(one.conclusion is not CheckConclusion.SUCCESS for one in _checks(seen).values())


def _thread(snapshot: ChangeSnapshot) -> ReviewThread | None:
    return next((one for one in snapshot.threads if one.path == _PATH), None)


def _replies(seen: SeenChange) -> list[Remark]:
    thread = _thread(seen.snapshot)
    return [one for one in thread.remarks if one.author.login != _PERSON] if thread else []


def _asks_again(seen: SeenChange) -> bool:
    return any(one.login == _PERSON for one in seen.snapshot.requested_reviewers)


def _text(remark: Remark) -> str:
    """Return what people read of a reply, on one line."""
    lines = (line.strip().lstrip("> ") for line in _HIDDEN.sub("", remark.body).splitlines())
    return " ".join(filter(None, lines)).replace("\u200b", "")


def _headline(seen: SeenChange) -> str:
    """Return the first line of the agent's comment, with the round."""
    if not seen.comments:
        return ""
    body = seen.comments[0]
    found = _ROUND.search(_HIDDEN.sub("", body))
    first = body.splitlines()[0].strip("*")
    return f"{first} · {found[0]}" if found else first


def _shown(seen: SeenChange) -> str:
    """Return what there is to see on a change, for a person who has to find out what is missing."""
    snapshot = seen.snapshot
    checks = ", ".join(f"{one.name} {one.conclusion or one.state}" for one in snapshot.checks)
    asked = ", ".join(one.login for one in snapshot.requested_reviewers)
    return (
        f"Seen: the change is {snapshot.state} at {snapshot.head_commit[:8]}; checks: {checks or 'none'};"
        f" replies: {len(_replies(seen))}; asked for a review: {asked or 'nobody'};"
        f" comment: {_HIDDEN.sub('', seen.comments[0]).strip() if seen.comments else 'none'}"
    )
