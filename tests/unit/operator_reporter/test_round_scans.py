"""The reporter's looks at open changes, with and without a round before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

import pytest
from coding_agent_core.errors import ForgeUnavailableError, NotYetError, RequestKind
from coding_agent_core.forge.changes import Actor, ChangeSnapshot, CheckKind, OpenChanges
from coding_agent_core.forge.values import Comment, CommitState, CommitStatus
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import Links, State, comment, read_state
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.rounds import Rounds
from coding_agent_core.task.agenttask import (
    ANNOTATION_RESCAN,
    LABEL_REPORTED,
    AgentTask,
    Condition,
    Event,
    Status,
    manifest,
)
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory
from coding_agent_core.task.model import Item, Origin, Phase, Submission, TaskRequest, Trigger, identity_hash
from coding_agent_core.task.round_cause import RoundCause, RoundKind
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.round_report import trigger_of
from coding_agent_core.task.runs import StoredRescan
from coding_agent_core.task.verification import RED_ON_BASE, VERIFY_STATUS
from coding_agent_operator.reporter import round_scans
from coding_agent_operator.reporter.forge_context import ForgeContext
from coding_agent_operator.reporter.reconcile_item import reconcile
from coding_agent_operator.reporter.report import TaskMemory, unreported, with_round
from coding_agent_operator.reporter.round_scans import LEFT_OUT, ReporterScans

from tests.unit.consumer_rounds.test_looks import ASKED, INFRASTRUCTURE, RED, FakeForge
from tests.unit.core_reporting import making as reports
from tests.unit.core_rounds.making import NOON, OURS, change, check, review, rounds
from tests.unit.operator.making import ended, task


class NoTasks:
    async def runs(self, _item: Item) -> tuple[AgentTask, ...]:
        return ()


def looks(forge: FakeForge) -> ReporterScans:
    parts: dict[str, Any] = {"forge": forge, "tasks": NoTasks(), "links": None, "sink": None}
    clock: dict[str, Any] = {"clock": lambda: NOON, "monotonic": lambda: 0.0}
    context = ForgeContext(labels=Labels(), clocks=Development(), **parts, **clock)
    return ReporterScans(context, Rounds(enabled=True), "coding-agent/", lambda _key: None)


async def test_why_no_round_follows_is_shown_until_it_is_over() -> None:
    red, record = rounds(RED, 3)
    forge = FakeForge(red)
    key = ItemKind.CHANGE, red.item.number
    before = comment(reports.report(ASKED.model_copy(update={"rounds": record})))
    forge.comments[key] = before.replace("\n", "\r\n")
    looked = looks(forge)
    for _ in range(3):
        await looked.scan()
    assert "which is the limit" in forge.comments[key]
    assert forge.edits == 1
    state = read_state(forge.comments[key])
    assert state is not None
    assert state.rounds == record
    forge.changes[red.item.number] = replace(red, checks=())
    for _ in range(3):
        await looked.scan()
    assert (forge.comments[key], forge.edits) == (before, 2)


class ForgedForge(FakeForge):
    """Shows the status of evidence as somebody else sets it again after each of our own."""

    def __init__(self, change: ChangeSnapshot) -> None:
        super().__init__(change)
        self.set: list[CommitStatus] = []

    async def set_status(self, _item: Item, commit: str, status: CommitStatus) -> None:
        assert commit == RED.head_commit
        self.set.append(status)


async def test_evidence_that_another_account_set_is_set_again_and_decides_nothing() -> None:
    forged = replace(check(VERIFY_STATUS, kind=CheckKind.STATUS, run="", errors=RED_ON_BASE), creator="99")
    forge, sink = ForgedForge(replace(RED, checks=(forged,))), Sink()
    looked = looks(forge)
    looked.context = replace(looked.context, sink=cast("Any", sink))
    for _ in range(7):
        await looked.scan()
    assert [(one.name, one.state) for one in forge.set] == [(VERIFY_STATUS, CommitState.ERROR)] * 5
    assert not any("base branch" in note for note in looked.notes[identity_hash(RED.item.identity)])
    forge.changes[RED.item.number] = replace(RED, checks=(replace(forged, creator=OURS.id),))
    await looked.scan()
    assert any("base branch" in note for note in looked.notes[identity_hash(RED.item.identity)])
    assert len(forge.set) == 5


class Sink:
    def __init__(self) -> None:
        self.asked: list[TaskRequest] = []

    async def submit(self, request: TaskRequest) -> Submission:
        self.asked.append(request)
        return Submission(task="t")


@pytest.mark.parametrize("closed", [True, False])
async def test_a_change_that_was_merged_after_it_was_read_has_no_round(closed: bool) -> None:
    forge, sink = FakeForge(RED), Sink()
    forge.closed = {RED.item.number} if closed else set()
    looked = looks(forge)
    looked.context = replace(looked.context, sink=cast("Any", sink))
    await looked.scan()
    assert len(sink.asked) == (0 if closed else 1)


class Answered(NoTasks):
    """Takes the annotations that asked for a look off."""

    async def patch(self, *_: object) -> None:
        return None


class CountingForge(FakeForge):
    """Counts looks at all open changes, and at one."""

    def __init__(self, *changes: ChangeSnapshot) -> None:
        super().__init__(*changes)
        self.looks: list[int | None] = []
        self.looked = asyncio.Event()

    async def open_changes(self) -> OpenChanges:
        self.looks.append(None)
        self.looked.set()
        return await super().open_changes()

    async def snapshot(self, item: Item) -> ChangeSnapshot:
        self.looks.append(item.number)
        self.looked.set()
        return self.changes[item.number]


def annotated(run: AgentTask, **look: Any) -> AgentTask:
    """A task with what the receiver writes after an event."""
    note = {
        ANNOTATION_RESCAN: StoredRescan(at=NOON, changes=True, **look).model_dump_json(exclude_defaults=True)
    }
    return AgentTask(run.metadata._replace(annotations=note), run.body)


@pytest.mark.parametrize("kind", ItemKind)
async def test_an_event_looks_at_the_change_that_it_names(
    monkeypatch: pytest.MonkeyPatch, kind: ItemKind
) -> None:
    """All others are read again only at the regular look. A change without a round has no task of its own."""
    monkeypatch.setattr(round_scans, "_QUIET_S", 0.01)
    other = replace(RED, item=RED.item.model_copy(update={"number": 9}), checks=())
    forge = CountingForge(replace(RED, checks=()), other)
    looked = looks(forge)
    looked.context = replace(looked.context, tasks=cast("Any", Answered()))
    run = OneRound().run
    if kind is ItemKind.ISSUE:
        run = working(RED.item.model_copy(update={"kind": kind, "number": 7}), 1, run.spec.trigger)
    running = asyncio.create_task(looked.run())
    try:
        async with asyncio.timeout(60):
            await forge.looked.wait()
            for _ in range(2):
                forge.looked.clear()
                looked.ask(annotated(run, change=RED.item.number))
                await forge.looked.wait()
    finally:
        running.cancel()
    assert forge.looks == [None, RED.item.number, RED.item.number]


@pytest.mark.parametrize(
    ("author", "is_put_off"),
    [("eve", True), ("Anna", False), ("gone", True), ("review-bot", False), ("", False)],
)
async def test_only_a_strangers_comment_is_put_off(author: str, is_put_off: bool) -> None:
    """Of somebody who wrote nothing before, nobody knows whether they may ask."""
    forge, now = CountingForge(change(reviews=(review(author=Actor("7", "anna")),))), 0.0
    looked = looks(forge)
    parts: dict[str, Any] = {"tasks": Annotated(), "sink": Sink(), "monotonic": lambda: now}
    looked.context = replace(looked.context, **parts)
    looked.settings = looked.settings.model_copy(update={"interval": 600.0, "bots": ("review-bot",)})
    looked.__post_init__()
    await looked._times.run_due(looked.scan, looked.scan_change)
    for _ in range(2):
        looked.ask(annotated(OneRound().run, change=8, author=author))
        await looked._times.run_due(looked.scan, looked.scan_change)
    assert forge.looks == [None, *([8] if is_put_off else [8, 8])]
    await looked._remove_annotations()
    assert bool(looked._asked) is is_put_off, "its annotation stays until it is done"
    now = looked._times.wait()
    if is_put_off:
        assert now == 60
        await looked._times.run_due(looked.scan, looked.scan_change)
        await looked._remove_annotations()
    assert forge.looks == [None, 8, 8]
    assert not looked._asked


class OneRound:
    """The tasks of a change: a round that has failed."""

    def __init__(self) -> None:
        word, trigger = trigger_of(RoundCause(RoundKind.CONFLICT, ("b" * 40,), RED.head_commit), NOON)
        by = Trigger(origin=Origin.POLL, cause=word, received_at=NOON, round=trigger)
        body = manifest(TaskRequest(item=RED.item, trigger=by), run=1, timeout_seconds=600, max_attempts=3)
        failed = task(ended("False"))
        self.run = AgentTask(failed.metadata, body | {"status": failed.status.to_wire()})

    async def runs(self, _item: Item) -> tuple[AgentTask]:
        return (self.run,)


async def test_the_next_round_waits_until_the_comment_has_the_end_of_the_one_before() -> None:
    """Its attempt reads the comment, and would otherwise do the same again."""
    forge, sink, tasks = FakeForge(RED), Sink(), OneRound()
    looked = looks(forge)
    looked.context = replace(looked.context, sink=cast("Any", sink), tasks=cast("Any", tasks))
    assert await looked.scan() == 0.0
    assert not sink.asked
    record = with_round(RoundRecord(), tasks.run)
    shown = reports.report(ASKED.model_copy(update={"rounds": record}))
    forge.comments[ItemKind.CHANGE, RED.item.number] = comment(shown)
    await looked.scan()
    assert len(sink.asked) == 1


async def test_a_comment_that_cannot_be_written_does_not_make_looks_more_frequent() -> None:
    tasks = OneRound()
    status = with_condition(tasks.run, unreported("ForgeRefused", "No."))
    tasks.run = AgentTask(tasks.run.metadata, {**tasks.run.body, "status": status.to_wire()})
    sink, looked = Sink(), looks(FakeForge(RED))
    looked.context = replace(looked.context, sink=cast("Any", sink), tasks=cast("Any", tasks))
    assert await looked.scan() == looked.settings.interval
    assert not sink.asked


def with_condition(run: AgentTask, condition: Condition) -> Status:
    return run.status.model_copy(update={"conditions": (*run.status.conditions, condition)})


async def test_the_next_round_does_not_wait_for_a_comment_that_somebody_deleted() -> None:
    sink, tasks = Sink(), OneRound()
    labels = {**tasks.run.metadata.labels, LABEL_REPORTED: "true"}
    tasks.run = AgentTask(tasks.run.metadata._replace(labels=labels), tasks.run.body)
    looked = looks(FakeForge(RED))
    looked.context = replace(looked.context, sink=cast("Any", sink), tasks=cast("Any", tasks))
    await looked.scan()
    assert len(sink.asked) == 1


class Tasks:
    """Holds one ended task for each item, and keeps the Events."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str, str]] = []

    async def runs(self, item: Item) -> tuple[AgentTask]:
        known = task(ended("False"))
        request = known.spec.request.model_copy(update={"item": item})
        body = manifest(request, run=1, timeout_seconds=600, max_attempts=3)
        return (AgentTask(known.metadata, body | {"status": known.status.to_wire()}),)

    async def emit(self, event: Event, about: AgentTask, _now: datetime) -> None:
        self.events.append((about.spec.item.number, event.reason, event.message))


def change_of(snapshot: ChangeSnapshot, number: int) -> ChangeSnapshot:
    return replace(snapshot, item=snapshot.item.model_copy(update={"number": number}))


class BrokenSink:
    async def submit(self, _request: TaskRequest) -> Submission:
        raise KeyError("round")


async def test_a_defect_is_shown_on_the_change_that_it_stops() -> None:
    """After three changes in a row the look ends, because then not a change is the problem."""
    changes = [change_of(RED, number) for number in (8, 9, 10, 11)]
    tasks, looked = Tasks(), looks(FakeForge(*changes))
    parts: dict[str, Any] = {"sink": BrokenSink(), "tasks": tasks}
    looked.context = replace(looked.context, **parts)
    with pytest.raises(KeyError):
        await looked.scan()
    assert [event[:2] for event in tasks.events] == [(number, "ChangeSetAside") for number in (8, 9, 10)]
    assert "There is a defect in the program (KeyError: 'round')" in tasks.events[0][2]
    assert LEFT_OUT.labels("github.com")._value.get() == 3
    assert await looked.scan() <= Development().forge_retry_max, "the others are tried again later"
    assert [event[0] for event in tasks.events] == [8, 9, 10, 11]


class FullForge(FakeForge):
    """It permits no request of a kind for half an hour."""

    kind = RequestKind.CREATE

    async def upsert_comment(self, *_: object, **__: object) -> Comment:
        raise NotYetError("the forge permits no further comment", self.kind, 1800.0)


@pytest.mark.parametrize("kind", [RequestKind.CREATE, RequestKind.WRITE])
async def test_a_new_comment_that_has_to_wait_holds_back_no_other_change(kind: RequestKind) -> None:
    """Four changes wait for a comment, which are more than the failures that end a look."""
    waiting = [change_of(INFRASTRUCTURE, number) for number in (8, 9, 10, 11)]
    forge, sink = FullForge(*waiting, change_of(RED, 12)), Sink()
    forge.kind = kind
    looked = looks(forge)
    looked.context = replace(looked.context, sink=cast("Any", sink))
    if kind is RequestKind.CREATE:
        assert await looked.scan() <= 1800.0
        assert looked._changes.left_out.keys() == {identity_hash(one.item.identity) for one in waiting}
        await looked.scan()
        assert forge.reruns == ["900"] * 4, "changes that are set aside are left alone"
    else:
        with pytest.raises(NotYetError):
            await looked.scan()
    assert bool(sink.asked) is (kind is RequestKind.CREATE)


@pytest.mark.parametrize("is_shown", [True, False], ids=["with a comment", "without a comment"])
async def test_a_check_that_is_run_again_is_shown_with_what_the_change_waits_for(is_shown: bool) -> None:
    forge = FakeForge(INFRASTRUCTURE)
    key = ItemKind.CHANGE, INFRASTRUCTURE.item.number
    if is_shown:
        forge.comments[key] = comment(reports.report(ASKED))
    looked = looks(forge)
    for _ in range(3):
        await looked.scan()
    assert forge.reruns == ["900"]
    assert "The forge was asked to run these checks again: CI / test." in forge.comments[key]
    state = read_state(forge.comments[key])
    assert len(((state and state.rounds) or RoundRecord()).reruns) == 1
    assert forge.edits == 1


class FailsOnce(FakeForge):
    """It does not answer the first request to write a comment on an item of this kind."""

    kind: ItemKind | None = ItemKind.CHANGE

    async def upsert_comment(self, item: Item, marker: str, body: str, **more: Any) -> Comment:
        if item.kind is self.kind:
            self.kind = None
            raise ForgeUnavailableError("It does not answer.")
        return await super().upsert_comment(item, marker, body, **more)


class OneRun(NoTasks):
    """The tasks of a change: a run that has ended and is shown."""

    def __init__(self, run: AgentTask) -> None:
        self.run = run

    async def runs(self, item: Item) -> tuple[AgentTask, ...]:
        return (self.run,) if item == self.run.spec.item else ()

    async def emit(self, *_: object) -> None: ...


@pytest.mark.parametrize("has_run", [True, False], ids=["after a run", "without a run"])
async def test_a_rerun_that_could_not_be_shown_is_shown_by_a_later_look(has_run: bool) -> None:
    forge, now = FailsOnce(INFRASTRUCTURE), 0.0
    forge.comments[ItemKind.CHANGE, 8] = comment(reports.report(ASKED.model_copy(update={"uuid": "uid-1"})))
    looked = looks(forge)
    tasks = OneRun(run_of(INFRASTRUCTURE.item, 1, is_reported=True)) if has_run else NoTasks()
    parts: dict[str, Any] = {"tasks": tasks, "links": Links("https://github.com", "coding-agent/")}
    looked.context = replace(looked.context, **parts)
    looked._changes.monotonic = lambda: now
    await looked.scan()
    assert looked._changes.left_out
    now += Development().forge_retry_max
    await looked.scan()
    assert "The forge was asked to run these checks again: CI / test." in forge.comments[ItemKind.CHANGE, 8]
    assert (forge.reruns, forge.edits) == (["900"], 1)
    state = read_state(forge.comments[ItemKind.CHANGE, 8])
    assert len(((state and state.rounds) or RoundRecord()).reruns) == 1, "the next attempt reads it there"


async def test_rounds_that_could_not_be_shown_on_the_issue_are_shown_by_a_later_look() -> None:
    snapshot, record = rounds(RED, 1)
    forge, now = FailsOnce(replace(snapshot, checks=())), 0.0
    forge.kind = ItemKind.ISSUE
    forge.comments[ItemKind.CHANGE, 8] = comment(reports.report(ASKED.model_copy(update={"rounds": record})))
    first = State(uuid="uid-1", phase=Phase.SUCCEEDED, change_url=snapshot.url, branch="coding-agent/issue-7")
    forge.comments[ItemKind.ISSUE, 7] = before = comment(reports.report(first))
    looked = looks(forge)
    looked._changes.monotonic = lambda: now
    await looked.scan()
    assert forge.comments[ItemKind.ISSUE, 7] == before
    now += Development().forge_retry_max
    await looked.scan()
    assert forge.comments[ItemKind.ISSUE, 7] != before
    assert forge.edits == 1


class Annotated(NoTasks):
    """Tells when the annotation of a task was taken off."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()

    async def patch(self, *_: object) -> None:
        self.answered.set()


class AnswersLate(CountingForge):
    """It does not answer the first request for one change."""

    failed = False

    async def snapshot(self, item: Item) -> ChangeSnapshot:
        found = await super().snapshot(item)
        if not self.failed:
            self.failed = True
            raise ForgeUnavailableError("It does not answer.")
        return found


async def test_a_look_that_somebody_asked_for_and_that_failed_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(round_scans, "_QUIET_S", 0.01)
    forge, tasks = AnswersLate(replace(RED, checks=())), Annotated()
    looked = looks(forge)
    looked.context = replace(
        looked.context,
        tasks=cast("Any", tasks),
        clocks=Development(forge_retry=0.01, forge_retry_max=0.01),
    )
    running = asyncio.create_task(looked.run())
    try:
        async with asyncio.timeout(60):
            await forge.looked.wait()
            looked.ask(annotated(OneRound().run))
            await tasks.answered.wait()
    finally:
        running.cancel()
    assert forge.looks == [None, RED.item.number, RED.item.number]


class Cancelling(NoTasks):
    """A round and a run that a person asked for, which both work; keeps which were cancelled."""

    def __init__(self) -> None:
        word, trigger = trigger_of(RoundCause(RoundKind.CONFLICT, ("b" * 40,), RED.head_commit), NOON)
        by_round = Trigger(origin=Origin.POLL, cause=word, received_at=NOON, round=trigger)
        by_person = Trigger(origin=Origin.WEBHOOK, received_at=NOON)
        self.stored = tuple(
            working(RED.item, number, by) for number, by in enumerate((by_round, by_person), start=1)
        )
        self.cancelled: list[str] = []

    async def runs(self, item: Item) -> tuple[AgentTask, ...]:
        return self.stored if item == RED.item else ()

    async def patch(self, run: AgentTask, _: object) -> None:
        self.cancelled.append(run.uid)


def working(item: Item, number: int, trigger: Trigger) -> AgentTask:
    """A run that works."""
    body = manifest(TaskRequest(item=item, trigger=trigger), run=number, timeout_seconds=600, max_attempts=3)
    body["metadata"] |= {"uid": f"uid-{number}", "resourceVersion": "1"}
    body["metadata"] |= {"creationTimestamp": NOON.isoformat()}
    body["status"] = {"phase": "Running"}
    return AgentTask.of(body)


@pytest.mark.parametrize("is_labeled", [True, False])
async def test_hands_off_ends_a_round_and_no_run_that_a_person_asked_for(is_labeled: bool) -> None:
    labels = frozenset({"coding agent hands off"} if is_labeled else ())
    tasks, looked = Cancelling(), looks(FakeForge(replace(RED, labels=labels)))
    looked.context = replace(looked.context, tasks=cast("Any", tasks))
    await looked.scan()
    assert tasks.cancelled == (["uid-1"] if is_labeled else [])


def run_of(item: Item, number: int, *, cancelled: bool = False, is_reported: bool = False) -> AgentTask:
    """A run that has ended."""
    trigger = Trigger(origin=Origin.WEBHOOK, received_at=NOON)
    body = manifest(TaskRequest(item=item, trigger=trigger), run=number, timeout_seconds=600, max_attempts=3)
    body["metadata"] |= {
        "uid": f"uid-{number}",
        "resourceVersion": "1",
        "creationTimestamp": NOON.isoformat(),
    }
    body["metadata"]["labels"] |= {LABEL_REPORTED: "true"} if is_reported else {}
    body["status"] = (ended("False", "Cancelled") if cancelled else ended("True")).to_wire()
    return AgentTask.of(body)


@dataclass
class Race:
    """The tasks of an item. Once, when a look has just read something, people label and unlabel the item.

    The worker of the reporter then shows the cancelled run, unless it has to wait for the look.
    """

    stored: list[AgentTask]
    newer: AgentTask
    context: ForgeContext = field(init=False)
    worker: asyncio.Task[Any] | None = None

    async def relabel(self) -> None:
        if self.worker is None:
            self.stored.append(self.newer)
            memory = TaskMemory(self.newer.uid)
            self.worker = asyncio.create_task(reconcile(self.context, self.newer, memory))
            for _ in range(100):
                await asyncio.sleep(0)

    async def runs(self, item: Item) -> tuple[AgentTask, ...]:
        answer = tuple(run for run in self.stored if run.spec.item == item)
        if answer and item.kind is ItemKind.CHANGE:
            await self.relabel()
        return answer

    async def set_conditions(self, read: AgentTask, *_: object) -> AgentTask:
        return read

    async def patch(self, read: AgentTask, _: object) -> AgentTask:
        return read


class RacingForge(FakeForge):
    """People label the item after our comment there has been read."""

    race: Race

    async def remove_label(self, *_: object) -> bool:
        return True

    async def find_comment(self, item: Item, marker: str) -> Comment | None:
        found = await super().find_comment(item, marker)
        if self.race.newer.spec.item == item:
            await self.race.relabel()
        return found

    async def item_history(self, *_: object) -> ItemHistory:
        names = frozenset({"coding agent"}), frozenset({"coding agent", "coding agent processing"})
        applied = ItemEvent(1, ItemAction.LABELED, "coding agent", "alice", NOON)
        return ItemHistory([applied], frozenset({"coding agent"}), True, *names, "bot")


async def looked_at(forge: RacingForge, race: Race) -> None:
    looked = looks(forge)
    parts: dict[str, Any] = {"tasks": race}
    race.context = looked.context = replace(
        looked.context, links=Links("https://github.com", "coding-agent/"), **parts
    )
    forge.race = race
    await looked.scan()
    assert race.worker is not None
    await race.worker


async def test_a_run_that_is_shown_during_a_look_stays_shown_on_the_issue() -> None:
    snapshot, record = rounds(RED, 1)
    issue = snapshot.item.model_copy(update={"kind": ItemKind.ISSUE, "number": 7})
    forge = RacingForge(replace(snapshot, checks=()))
    forge.comments[ItemKind.CHANGE, 8] = comment(reports.report(ASKED.model_copy(update={"rounds": record})))
    first = State(uuid="uid-1", phase=Phase.SUCCEEDED, change_url=snapshot.url, branch="coding-agent/issue-7")
    forge.comments[ItemKind.ISSUE, 7] = comment(reports.report(first))
    await looked_at(forge, Race([run_of(issue, 1, is_reported=True)], run_of(issue, 2, cancelled=True)))
    shown = read_state(forge.comments[ItemKind.ISSUE, 7])
    assert shown is not None
    assert (shown.run, shown.phase) == (2, Phase.CANCELLED)


@pytest.mark.parametrize("has_run", [True, False], ids=["after a run", "without a run"])
async def test_a_run_that_is_shown_during_a_look_stays_shown_on_the_change(has_run: bool) -> None:
    red, record = rounds(RED, 3)
    forge, number = RacingForge(red), 2 if has_run else 1
    first = State(uuid="uid-1" if has_run else "", phase=Phase.SUCCEEDED, rounds=record)
    forge.comments[ItemKind.CHANGE, 8] = comment(reports.report(first))
    stored = [run_of(red.item, 1, is_reported=True)] if has_run else []
    await looked_at(forge, Race(stored, run_of(red.item, number, cancelled=True)))
    shown = read_state(forge.comments[ItemKind.CHANGE, 8])
    assert shown is not None
    assert (shown.run, shown.phase) == (number, Phase.CANCELLED)
