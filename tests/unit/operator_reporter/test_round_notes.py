"""What people read about a change's next round, and when a snapshot is enough to know our comment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.forge.changes import BODY_LIMIT, Actor, ChangeSnapshot, ChangeState, Part, Remark
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Links, State, comment, read_state
from coding_agent_core.rounds.notes import notes_of, our_comment, shows
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.model import Cause, Item, Origin, Phase, TaskRequest, Trigger, WithdrawalCause
from coding_agent_core.task.round_cause import (
    STILL_WRITING,
    RoundCause,
    RoundKind,
    RoundPolicy,
    Stop,
    StopReason,
    Waiting,
    Work,
)
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, RoundResult
from coding_agent_core.task.round_report import report_of_round, trigger_of
from coding_agent_core.task.runs import cancellation
from coding_agent_operator.reporter.report import report_of, with_round

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
POLICY = RoundPolicy(review_quiet=timedelta(seconds=60))
US, ALICE = Actor("1", "coding-agent-bot"), Actor("2", "alice")
ITEM = Item(platform=Platform.GITHUB, host="h", repository="o/r", kind=ItemKind.CHANGE, number=7)
HEAD, NEXT = "a" * 40, "b" * 40

NOTES: list[tuple[str, Work, tuple[str, ...]]] = [
    ("nothing", Work(), ()),
    (
        "quiet",
        Work(waiting=(Waiting(RoundKind.REVIEW, NOW, STILL_WRITING),)),
        ("The next round waits for 60 s of quiet after the last comment.",),
    ),
    ("checks run", Work(waiting=(Waiting(RoundKind.CHECKS, NOW, "Checks run."),)), ("Checks run.",)),
    ("the forge computes", Work(waiting=(Waiting(RoundKind.CONFLICT, None, ""),)), ()),
    (
        "a run is active",
        Work(waiting=(Waiting(RoundKind.CONFLICT, None, "A run of this change is active."),)),
        ("A run of this change is active.",),
    ),
    ("merged", Work(stops=(Stop(StopReason.MERGED, "It is merged."),)), ()),
    (
        "the bound, and a note",
        Work(stops=(Stop(StopReason.BOUND, "The limit."),), notes=("A check hangs.", "The limit.")),
        ("The limit.", "A check hangs."),
    ),
]


@pytest.mark.parametrize(("work", "expected"), [row[1:] for row in NOTES], ids=[row[0] for row in NOTES])
def test_notes(work: Work, expected: tuple[str, ...]) -> None:
    assert notes_of(work, POLICY) == expected


def remark(author: Actor, body: str) -> Remark:
    return Remark("5", author, NOW, body)


def snapshot(*comments: Remark, left_out: frozenset[Part] = frozenset()) -> ChangeSnapshot:
    return ChangeSnapshot(
        item=ITEM,
        url="",
        own=US,
        read_at=NOW,
        author=US,
        title="",
        state=ChangeState.OPEN,
        draft=False,
        head_branch="coding-agent/issue-1",
        head_commit=HEAD,
        base_branch="main",
        base_commit="c" * 40,
        created_at=NOW,
        updated_at=NOW,
        comments=comments,
        left_out=left_out,
    )


STATE = State(uuid="u", phase=Phase.SUCCEEDED)
HIDDEN = f"{MARKER}{STATE.model_dump_json(exclude_none=True)} -->"
OURS = remark(US, f"Done.\n{HIDDEN}")
LONG = remark(US, f"{'x' * BODY_LIMIT}{HIDDEN}")
COMMENTS: list[tuple[str, ChangeSnapshot, bool, State | None]] = [
    ("none", snapshot(), True, None),
    ("ours", snapshot(remark(ALICE, "Hello"), OURS), True, STATE),
    ("somebody copied it", snapshot(remark(ALICE, OURS.body)), True, None),
    ("another one of ours", snapshot(remark(US, "I replied.")), True, None),
    ("it is cut", snapshot(LONG), False, None),
    ("a long one of somebody else", snapshot(remark(ALICE, "x" * BODY_LIMIT)), True, None),
    ("a long reply of ours beside it", snapshot(remark(US, "x" * BODY_LIMIT), OURS), True, STATE),
    ("older comments are left out", snapshot(left_out=frozenset({Part.COMMENTS})), False, None),
    ("ours is broken", snapshot(remark(US, f"{MARKER}{{oops}} -->")), True, None),
]


@pytest.mark.parametrize(
    ("seen", "whole", "state"), [row[1:] for row in COMMENTS], ids=[row[0] for row in COMMENTS]
)
def test_our_comment_is_read_only_if_the_snapshot_lacks_it(
    seen: ChangeSnapshot, whole: bool, state: State | None
) -> None:
    found = our_comment(seen)
    assert (found.whole, found.state) == (whole, state)


def test_a_long_comment_is_compared_by_its_beginning() -> None:
    text = "x" * (BODY_LIMIT + 5)
    assert shows(text[:BODY_LIMIT], text)
    assert not shows("y" * BODY_LIMIT, text)
    just_fits = text[: BODY_LIMIT - 50]
    assert shows(f"{just_fits}<!-- coding-agent:signature acme/pricing ".ljust(BODY_LIMIT, "0"), just_fits)
    assert shows("a\r\nb\n", "a\nb")
    assert not shows("a", "a\nb")


CAUSE = RoundCause(RoundKind.CHECKS, ("test",), HEAD, limit=3, seen=NOW)


def a_round(
    phase: Phase,
    reported: RoundEnd | None = None,
    *,
    identity: str | None = None,
    cause: WithdrawalCause | None = None,
    worked_on: RoundCause = CAUSE,
    trigger_cause: Cause | None = Cause.CHECKS,
) -> AgentTask:
    _, trigger = trigger_of(CAUSE, NOW)
    if identity is not None:
        trigger = trigger.model_copy(update={"cause": identity})
    request = TaskRequest(
        item=ITEM, trigger=Trigger(origin=Origin.POLL, cause=trigger_cause, received_at=NOW, round=trigger)
    )
    body: dict[str, Any] = dict(manifest(request, run=1))
    if cause is not None:
        patch = cancellation("somebody acted", cause)
        body["spec"] |= patch["spec"]
        body["metadata"] |= patch["metadata"]
    succeeded = {Phase.SUCCEEDED: "True", Phase.FAILED: "False", Phase.CANCELLED: "False"}
    condition = {
        "type": "Succeeded",
        "status": succeeded.get(phase, "Unknown"),
        "reason": phase.value,
        "lastTransitionTime": NOW.isoformat(),
    }
    status: dict[str, Any] = {"phase": phase.value, "conditions": [condition]}
    if reported is not None:
        report = report_of_round(RoundResult(worked_on, NOW, reported, NEXT))
        status["result"] = {"round": report.model_dump(mode="json", exclude_none=True)}
    return AgentTask.of(body | {"status": status})


def test_the_comment_names_the_round_that_ran() -> None:
    links, conflict = Links("https://h", "coding-agent/"), RoundCause(RoundKind.CONFLICT, (NEXT,), HEAD)
    run = a_round(Phase.SUCCEEDED, RoundEnd.PUSHED)
    assert "checks round 1 of 3" in comment(report_of(run, Labels(), links))
    run = a_round(Phase.SUCCEEDED, RoundEnd.PUSHED, worked_on=conflict)
    text = comment(report_of(run, Labels(), links))
    assert "conflict round" in text
    assert "checks round" not in text


ENDS: list[tuple[str, AgentTask, RoundEnd | None]] = [
    ("runs", a_round(Phase.RUNNING), None),
    ("pushed", a_round(Phase.SUCCEEDED, RoundEnd.PUSHED), RoundEnd.PUSHED),
    ("succeeded and said nothing", a_round(Phase.SUCCEEDED), RoundEnd.NO_PUSH),
    ("failed", a_round(Phase.FAILED), RoundEnd.FAILED),
    ("cancelled", a_round(Phase.CANCELLED), RoundEnd.CANCELLED),
    ("cancelled after its report", a_round(Phase.CANCELLED, RoundEnd.PUSHED), RoundEnd.PUSHED),
    (
        "cancelled by a command",
        a_round(Phase.CANCELLED, RoundEnd.CANCELLED, cause=WithdrawalCause.COMMAND),
        RoundEnd.CANCELLED,
    ),
    *(
        row
        for cause in (WithdrawalCause.CLOSED, WithdrawalCause.HANDS_OFF)
        for row in (
            (f"{cause}, while it waited", a_round(Phase.CANCELLED, cause=cause), RoundEnd.SUPERSEDED),
            (
                f"{cause}, while it ran",
                a_round(Phase.CANCELLED, RoundEnd.CANCELLED, cause=cause),
                RoundEnd.SUPERSEDED,
            ),
            (
                f"{cause}, after its push",
                a_round(Phase.CANCELLED, RoundEnd.PUSHED, cause=cause),
                RoundEnd.PUSHED,
            ),
            (f"{cause}, after it failed", a_round(Phase.FAILED, cause=cause), RoundEnd.FAILED),
        )
    ),
    ("written by a person", a_round(Phase.FAILED, identity="not one"), None),
]


@pytest.mark.parametrize(("task", "end"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_how_a_run_is_recorded(task: AgentTask, end: RoundEnd | None) -> None:
    record = with_round(RoundRecord(), task)
    is_superseded = end is RoundEnd.SUPERSEDED  # no model was asked, so nothing but its name is kept
    assert [entry.end for entry in record.rounds] == ([] if end is None or is_superseded else [end])
    assert len(record.superseded) == is_superseded
    assert record.has(CAUSE) is (end is not None)
    assert with_round(record, task) == record


@pytest.mark.parametrize("cause", [Cause.LABEL, Cause.COMMAND, None])
def test_a_task_that_only_says_that_it_is_a_round_answers_nothing(cause: Cause | None) -> None:
    """Somebody who may create tasks for labels names remarks that no round has read."""
    posed = a_round(Phase.FAILED, trigger_cause=cause)
    assert posed.spec.trigger.round is not None
    assert with_round(RoundRecord(), posed) == RoundRecord()


def test_a_state_keeps_its_record_and_survives_a_broken_one() -> None:
    record = with_round(RoundRecord(), a_round(Phase.FAILED))
    state = STATE.model_copy(update={"rounds": record})
    hidden = state.model_dump_json(exclude_none=True)
    assert read_state(f"{MARKER}{hidden} -->") == state
    broken = read_state(f'{MARKER}{{"uuid": "u", "phase": "Succeeded", "rounds": {{"rounds": 7}}}} -->')
    assert broken is not None
    assert broken.rounds is not None
    assert broken.rounds.problem
