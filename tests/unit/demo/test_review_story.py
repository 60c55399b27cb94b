"""The demo's story of a review ends well only if all of it happened, and otherwise names what is missing."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.changes import (
    Actor,
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
    Remark,
    ReviewThread,
)
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import State
from coding_agent_core.task.model import Item, Phase
from coding_agent_core.task.round_cause import RoundKind
from coding_agent_core.task.round_record import RoundEnd, RoundEntry, RoundRecord
from coding_agent_demo import review_story
from coding_agent_demo.person import Person, Seen, SeenChange
from coding_agent_demo.processes import DemoError
from coding_agent_demo.review_story import ReviewStory
from coding_agent_demo.sandbox import Sandbox
from coding_agent_demo.screen import Screen
from coding_agent_demo.world import World
from rich.console import Console

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
ALICE, AGENT = Actor("1", "alice"), Actor("2", "coding-agent-bot")
FIRST, SECOND, THIRD = ("1" * 40, "2" * 40, "3" * 40)
URL = "http://127.0.0.1:1/acme/pricing/pull/3"
PASSED, FAILED = CheckConclusion.SUCCESS, CheckConclusion.FAILURE
STEPS = (
    "the agent opens a change",
    "the check of the new change fails",
    "a round corrects what the check says",
    "all checks pass after the round",
    "a round does what the comment asks for",
    "the agent answers in the thread",
    "the agent asks for another review",
    "all checks pass after the review",
    "the change is merged",
    "the merge closes the issue",
)
COMMENTED_AT, MERGED_AT = 4, 8


def checks(**results: CheckConclusion) -> tuple[CheckResult, ...]:
    return tuple(
        CheckResult("1", f"ci / {name}", CheckKind.JOB, CheckState.COMPLETED, result)
        for name, result in results.items()
    )


GREEN, RED = checks(tests=PASSED, examples=PASSED), checks(tests=PASSED, examples=FAILED)


def remark(author: Actor, text: str) -> Remark:
    return Remark("1", author, NOW, text)


def entry(kind: RoundKind) -> RoundEntry:
    head = {RoundKind.CHECKS: (FIRST, SECOND), RoundKind.REVIEW: (SECOND, THIRD)}[kind]
    before, after = head
    return RoundEntry(
        kind=kind, identity="0" * 16, keys=(), at=NOW, end=RoundEnd.PUSHED, before=before, after=after
    )


@dataclass
class Watcher(Person):
    """Sees one more step of the story with each look, up to the last one that happens.

    Attributes:
        happens: how many steps happen.
        differs: what differs at the end from what should be there.
    """

    happens: int = len(STEPS)
    differs: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    _limit: int = COMMENTED_AT

    def look(self) -> Seen:
        self._go_on()
        opened, closed = self.step >= 1, self.step >= 10
        return Seen(
            change_url=URL if opened else "", comments=self.differs.get("comments", 1), is_open=not closed
        )

    def look_at_change(self, number: int) -> SeenChange:
        assert number == 3
        self._go_on()
        replies = self.differs.get("replies", 1) if self.step >= 6 else 0
        thread = ReviewThread(
            "t", "pricing/discount.py", 10, False, False,
            (remark(ALICE, "Please"), *[remark(AGENT, "<!-- x -->\nDone.\n\n> It says so.")] * replies),
        )  # fmt: skip
        seen = ChangeSnapshot(
            item=Item(
                platform=Platform.GITHUB,
                host="127.0.0.1",
                repository="acme/pricing",
                kind=ItemKind.CHANGE,
                number=3,
            ),
            url=URL, own=ALICE, read_at=NOW, author=AGENT, title="", draft=False,
            state=ChangeState.MERGED if self.step >= 9 else ChangeState.OPEN,
            head_branch="b", head_commit=FIRST if self.step < 3 else SECOND if self.step < 5 else THIRD,
            base_branch="main", base_commit="0" * 40, created_at=NOW, updated_at=NOW,
            threads=(thread,),
            requested_reviewers=(ALICE,) if self.step >= 7 else (),
        )  # fmt: skip
        shown = {2: RED, 4: self.differs.get("after the round", GREEN), 8: GREEN, 9: GREEN, 10: GREEN}
        rounds = self.differs.get("rounds", (RoundKind.CHECKS, RoundKind.REVIEW))
        record = RoundRecord(rounds=tuple(entry(kind) for kind in rounds))
        state = State(uuid="u", phase=Phase.SUCCEEDED, rounds=record).model_dump_json(exclude_none=True)
        comments = (f"**Coding agent: done**\n{MARKER}{state} -->",) * self.differs.get("on the change", 1)
        return SeenChange(replace(seen, checks=shown.get(self.step, ())), comments)

    def comment_on_line(self, change: ChangeSnapshot, path: str, code: str, text: str) -> int:
        self._limit = MERGED_AT
        return 10

    def approve_and_merge(self, change: ChangeSnapshot) -> None:
        self._limit = len(STEPS)

    def subject(self, commit: str) -> str:
        return "A subject"

    def _go_on(self) -> None:
        self.step = min(self.step + 1, self._limit, self.happens)


class Time:
    """A clock that only the pauses between two looks move."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture(autouse=True)
def _time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_story, "time", Time())


def play(tmp_path: Path, **watcher: Any) -> str:
    log = tmp_path / "agent.log"
    log.touch()
    forge = Sandbox(
        platform=Platform.GITHUB,
        title="",
        url="",
        api_url="",
        repository=tmp_path,
        bot_token="",
        person_token="",
    )
    world = World(forge, "", "", tmp_path)
    console = Console(record=True, width=200)
    story = ReviewStory(
        Screen(console, log), Watcher(world, **watcher), step_seconds=10, quiet_seconds=0, pause=1
    )
    story.play()
    return console.export_text()


def test_the_whole_story_is_told_in_its_order(tmp_path: Path) -> None:
    told = play(tmp_path)
    parts = (
        "opens the pull request",
        "examples failed, tests passed",
        "pushes 22222222",
        "examples passed",
        "alice     comments on pricing/discount.py, line 10",
        "pushes 33333333",
        "in the thread: Done. It says so.",
        "requests another review from alice",
        "approves and merges",
        "issue 1 closed",
        "does nothing more",
    )
    places = [told.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("happens", range(len(STEPS)))
def test_a_step_that_does_not_happen_is_named(tmp_path: Path, happens: int) -> None:
    with pytest.raises(DemoError) as error:
        play(tmp_path, happens=happens)
    assert f"within 10 s: {STEPS[happens]}. Seen: " in str(error.value)


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({"after the round": RED}, "all checks pass after the round. Seen: .*examples failure"),
        ({"comments": 2}, "'comments on the issue': 2"),
        ({"on the change": 2}, "'comments on the change': 2"),
        ({"replies": 2}, "'replies': 2"),
        ({"rounds": (RoundKind.CHECKS, RoundKind.CHECKS, RoundKind.REVIEW)}, "should end with"),
    ],
)
def test_what_is_too_much_or_wrong_fails_the_story(
    tmp_path: Path, differs: dict[str, Any], says: str
) -> None:
    with pytest.raises(DemoError, match=says):
        play(tmp_path, differs=differs)
