"""Snapshots of a change of ours, people around it, and rounds that end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import Any

from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeEvent,
    ChangeEventKind,
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
    Mergeability,
    Remark,
    ReviewThread,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.rounds.decide import open_work
from coding_agent_core.task.model import Item
from coding_agent_core.task.round_cause import Rerun, RoundCause, RoundPolicy, StopReason, Work
from coding_agent_core.task.round_record import RerunEntry, RoundEnd, RoundRecord, RoundResult
from coding_agent_core.task.round_report import recorded, report_of_round, trigger_of

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
OURS = Actor("1", "coding-agent")
ANNA = Actor("2", "anna", member=True)
OLAF = Actor("3", "olaf", member=True)
STRANGER = Actor("4", "mallory", member=False)
REVIEW_BOT = Actor("5", "review-bot[bot]", ActorKind.BOT)
OTHER_BOT = Actor("6", "chatter[bot]", ActorKind.BOT)
NOISY = Actor("7", "Lint-Account")
"""A bot with a person's account, which only the policy knows as a bot."""
POLICY = RoundPolicy(
    trigger_labels=frozenset({"coding agent"}),
    bots=frozenset({"review-bot[bot]", "lint-account"}),
    daily_rounds=1_000,  # in most tests, all rounds start within a day
)


def sha(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


HEAD, BASE = sha("head 1"), sha("base 1")


def at(seconds: float) -> datetime:
    """A time on the forge's clock, from noon, when the change was opened."""
    return NOON + timedelta(seconds=seconds)


LATER = at(3600)
"""When all is quiet."""


def may_write(login: str) -> bool | None:
    return login in {"anna", "olaf"}


def change(**fields: Any) -> ChangeSnapshot:
    """An open change of ours to which nothing is left to do."""
    known: dict[str, Any] = {
        "item": Item(
            platform=Platform.GITHUB,
            host="github.com",
            repository="octo/demo",
            kind=ItemKind.CHANGE,
            number=8,
        ),
        "url": "https://github.com/octo/demo/pull/8",
        "own": OURS,
        "read_at": LATER,
        "author": OURS,
        "title": "Add a thing",
        "state": ChangeState.OPEN,
        "draft": False,
        "head_branch": "coding-agent/issue-7",
        "head_commit": HEAD,
        "head_at": NOON,
        "base_branch": "main",
        "base_commit": BASE,
        "created_at": NOON,
        "updated_at": NOON,
        "mergeability": Mergeability.MERGES,
    }
    return ChangeSnapshot(**known | fields)


def remark(
    number: int,
    author: Actor = ANNA,
    body: str = "Please rename it.",
    second: float = 100,
    commit: str = HEAD,
    review: str = "",
) -> Remark:
    return Remark(str(number), author, at(second), body, commit, review=review)


def thread(*remarks: Remark, resolved: bool = False, outdated: bool = False) -> ReviewThread:
    return ReviewThread(f"PRRT_{remarks[0].id}", "app.py", 3, resolved, outdated, remarks)


def review(
    number: int = 50,
    author: Actor = ANNA,
    verdict: ReviewVerdict = ReviewVerdict.COMMENTED,
    body: str = "Rename all of them.",
    second: float | None = 100,
) -> SubmittedReview:
    when = None if second is None else at(second)
    return SubmittedReview(str(number), author, verdict, body, when, HEAD)


def check(
    name: str = "CI / test",
    conclusion: CheckConclusion | None = CheckConclusion.FAILURE,
    *,
    run: str = "900",
    errors: str = "",
    began: float | None = 10,
    ended: float | None = 100,
    earlier: tuple[CheckConclusion, ...] = (),
    kind: CheckKind = CheckKind.JOB,
    event: str = "push",
    required: bool | None = None,
) -> CheckResult:
    """A check that ended; without a conclusion it still runs."""
    return CheckResult(
        id=run,
        name=name,
        kind=kind,
        state=CheckState.RUNNING if conclusion is None else CheckState.COMPLETED,
        conclusion=conclusion,
        required=required,
        errors=errors,
        event=event,
        started_at=None if began is None else at(began),
        completed_at=None if conclusion is None or ended is None else at(ended),
        earlier=earlier,
    )


def event(
    kind: ChangeEventKind, actor: Actor | None = ANNA, second: float = 500, **fields: Any
) -> ChangeEvent:
    return ChangeEvent(kind, actor, at(second), **fields)


def decide(
    snapshot: ChangeSnapshot,
    record: RoundRecord | None = None,
    *,
    policy: RoundPolicy = POLICY,
    now: datetime = LATER,
    **options: Any,
) -> Work:
    options = {"may_write": may_write} | options
    return open_work(snapshot, record or RoundRecord(), policy, now, **options)


def after(
    record: RoundRecord,
    result: RoundResult,
    created: RoundCause | None = None,
    *,
    owed: tuple[str, ...] = (),
) -> RoundRecord:
    """The record after a round that was created for a cause, by default for the one that it worked on.

    Args:
        owed: the remarks that got no reply.
    """
    _, trigger = trigger_of(created or result.cause, result.at)
    return recorded(record, trigger, report_of_round(result).owing(owed), RoundEnd.FAILED)


def asked_again(record: RoundRecord, rerun: Rerun, when: datetime, *, refused: bool = False) -> RoundRecord:
    """The record after the forge was asked to run a check again."""
    entry = RerunEntry(head=rerun.head, check=rerun.check, run=rerun.run, at=when, refused=refused)
    return record.with_rerun_entry(entry)


def ended(
    record: RoundRecord,
    cause: RoundCause,
    end: RoundEnd = RoundEnd.PUSHED,
    *,
    head: str | None = None,
    owed: tuple[str, ...] = (),
    **fields: Any,
) -> RoundRecord:
    """The record after a round, which pushed a new head unless it ended otherwise."""
    pushed = head or (sha(f"after {cause.identity}") if end is RoundEnd.PUSHED else cause.head)
    return after(record, RoundResult(cause, LATER, end, pushed, **fields), owed=owed)


def rounds(
    snapshot: ChangeSnapshot, count: int, record: RoundRecord | None = None, **options: Any
) -> tuple[ChangeSnapshot, RoundRecord]:
    """Let rounds run on a change on which nothing else changes than the head."""
    record = record or RoundRecord()
    for number in range(count):
        work = decide(snapshot, record, **options)
        assert work.due, (number, work)
        record = ended(record, work.due[0])
        snapshot = replace(snapshot, head_commit=record.rounds[-1].after)
    return snapshot, record


def reasons(work: Work) -> list[StopReason]:
    return [stop.reason for stop in work.stops]
