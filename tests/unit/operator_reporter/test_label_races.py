"""People label, unlabel and close one item within seconds, and every program acts in any order.

The API server, the forge and the operator are models. The sink, admission, the parsers' rule of which
removal cancels, and the reporter are the real ones. Others act before each request and before each answer.
The forge's clock is ahead or behind, may be set once, tells whole seconds, and its webhooks come late, twice,
out of order or not at all.
"""

import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_core.forge.values import Comment, ItemState, LabelEvent, answered_by
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Links
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.admission import announcement, works
from coding_agent_core.task.agenttask import LABEL_REPORTED, AgentTask, Condition
from coding_agent_core.task.agenttask_patches import conditions_patch
from coding_agent_core.task.model import (
    Origin,
    Submission,
    TaskRequest,
    Trigger,
    Withdrawal,
    WithdrawalCause,
    whole_second,
)
from coding_agent_forges.rest.calls import Read
from coding_agent_forges.webhooks.events import cancels
from coding_agent_operator.reporter.reconcile_item import ForgeContext, TaskChangedError, reconcile
from coding_agent_operator.reporter.report import TaskMemory

from tests.unit.operator.task_server import ITEM, Server, others_act

LABELS = Labels()
BOT, PROCESSING = LABELS.bot_label, LABELS.processing_label
ALICE, US = "alice", "coding-agent-bot"
GRACE = 60.0
START = Server().now
SHORTEST_WORK = timedelta(seconds=1)
"""An attempt starts a pod, clones and asks a model, so it takes longer than the precision of forge times."""


class TaskServer(Server):
    """With what the reporter writes."""

    async def set_conditions(
        self, read: AgentTask, wanted: Sequence[Condition], now: datetime
    ) -> AgentTask | None:
        await others_act()
        stored = self.stored.get(read.name)
        if stored is None or stored["metadata"]["uid"] != read.uid:
            return None
        for change in (conditions_patch(AgentTask.of(stored), wanted, now) or [])[1:]:
            stored = self.write(_patched(deepcopy(stored), change))
        return AgentTask.of(deepcopy(stored))

    async def emit(self, *_: object, **__: object) -> None:
        await others_act()

    def _merge(self, body: dict[str, Any], patch: Any) -> dict[str, Any]:
        merged = super()._merge(body, patch)
        stored = self.stored[merged["metadata"]["name"]]
        notes = stored["metadata"]["annotations"]
        stored["metadata"]["annotations"] = {key: note for key, note in notes.items() if note is not None}
        stored["metadata"]["labels"].update((patch.get("metadata") or {}).get("labels") or {})
        return deepcopy(stored)


def _patched(body: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The task after one operation of a JSON patch of its conditions."""
    match change["path"].split("/")[1:]:
        case ["status"]:
            body["status"] = change["value"]
        case ["status", "conditions"]:
            body["status"]["conditions"] = change["value"]
        case ["status", "conditions", "-"]:
            body["status"]["conditions"].append(change["value"])
        case ["status", "conditions", place]:
            body["status"]["conditions"][int(place)] = change["value"]
    return body


@dataclass
class Event:
    """Of the forge's history; `at` is by the forge's clock."""

    at: datetime
    user: str
    label: str
    added: bool


class Forge:
    """One item as `Forge` shows it, and the webhooks that are on their way."""

    platform = Platform.GITHUB

    def __init__(self, server: Server) -> None:
        self.server = server
        self.offset = timedelta(0)
        self.account_known = True
        self.labels: set[str] = set()
        self.open = True
        self.updated = self.second(server.now)
        self.history: list[Event] = []
        self.webhooks: list[Trigger | Withdrawal] = []

    def second(self, at: datetime) -> datetime:
        return whole_second(at + self.offset)

    def change(self, user: str, label: str, *, added: bool) -> None:
        if added == (label in self.labels):
            return
        now = self.server.now
        self.updated = self.second(now)
        (self.labels.add if added else self.labels.discard)(label)
        self.history.append(Event(self.updated, user, label, added))
        ignored = user == US and self.account_known
        if added and label == BOT and user != US:
            self.webhooks.append(
                Trigger(
                    origin=Origin.WEBHOOK,
                    delivery_id=f"d{len(self.history)}",
                    labeled_at=self.updated,
                    received_at=now,
                )
            )
        elif not added and not ignored and cancels({label}, self.labels, LABELS) is not None:
            self.webhooks.append(Withdrawal(item=ITEM, reason="unlabeled", at=self.updated, user=user))

    def close(self) -> None:
        self.open, self.updated = False, self.second(self.server.now)
        closed = WithdrawalCause.CLOSED
        self.webhooks.append(Withdrawal(item=ITEM, reason="closed", cause=closed, at=self.updated))

    # The part of the protocol that the reporter uses.

    async def whoami(self) -> str:
        return US

    async def read_state(self, _: object) -> ItemState:
        await others_act()
        state = ItemState(frozenset(self.labels), self.open, self.updated)
        await others_act()
        return state

    async def label_history(self, _: object, since: datetime | None) -> Read[LabelEvent]:
        await others_act()
        found: list[LabelEvent] = []
        for event in reversed([event for event in self.history if event.label in LABELS.active]):
            applied = any(known.added and known.label == BOT for known in found)
            if applied and (since is None or event.at < since):
                break
            found.append(LabelEvent(event.at, event.user, event.label, event.added))
        await others_act()
        return Read(tuple(found))

    async def label_application(self, item: object) -> LabelEvent | None:
        history = await self.label_history(item, None)
        return next((event for event in history.values if event.added and event.label == BOT), None)

    async def add_label(self, _: object, label: str) -> None:
        await others_act()
        self.change(US, label, added=True)

    async def remove_label(self, _: object, label: str) -> bool:
        await others_act()
        there = label in self.labels
        self.change(US, label, added=False)
        return there

    async def find_comment(self, *_: object) -> None:
        await others_act()

    async def upsert_comment(self, _: object, __: str, body: str, **___: object) -> Comment:
        await others_act()
        self.updated = self.second(self.server.now)
        return Comment("1", US, body, self.server.now)


class LabelRace:
    """One item. A run works until its attempt is told to end.

    Args:
        sets_clock: whether the forge's clock is set ahead or back at some time.
    """

    def __init__(self, seed: int, *, sets_clock: bool = False) -> None:
        self.chance = random.Random(seed)
        self.server = TaskServer()
        self.forge = Forge(self.server)
        self.forge.offset = timedelta(milliseconds=self.chance.randint(-400_000, 400_000))
        self.forge.account_known = self.chance.random() < 0.7
        self.sets_clock = sets_clock
        self.sink = KubernetesSink(Access(None), "ns", Consumer(), now=lambda: self.server.now)
        self.context = ForgeContext(
            forge=self.forge,  # type: ignore[arg-type]
            labels=LABELS,
            links=Links("https://github.com", "coding-agent/"),
            tasks=self.server,  # type: ignore[arg-type]
            sink=SimpleNamespace(submit=self.submit),
            clocks=Development(grace=GRACE),
            clock=lambda: self.server.now,
            monotonic=self.seconds,
        )
        self.memories: dict[str, TaskMemory] = {}
        self.acting: list[Coroutine[Any, Any, None]] = []
        self.reconciling = False
        self.applied: list[datetime] = []
        self.withdrawn_at: datetime | None = None
        self.started: dict[str, datetime] = {}
        self.worked_until: dict[str, datetime] = {}
        self.did: Counter[str] = Counter()

    def run(self) -> None:
        """People and programs act at random, then everybody else until nothing changes any more."""
        actions: dict[Callable[[], None], int] = {
            self.label: 4,
            self.unlabel: 3,
            self.close: 1 if self.chance.random() < 0.2 else 0,
            self.deliver: 5,
            self.lose: 1,
            self.poll: 1,
            self.reconcile: 4,
            self.operate: 4,
            self.finish_work: 2,
            self.go_on: 14,
            self.pass_time: 6,
            self.set_clock: 1 if self.sets_clock else 0,
        }
        self.label()
        for action in self.chance.choices(list(actions), list(actions.values()), k=120):
            action()
        for _ in range(8):
            while self.forge.webhooks:
                self.deliver()
                self.finish()
            self.poll()
            self.finish()
            for _ in range(6):
                self.operate()
                self.reconcile()
                self.finish()
            self.server.now += timedelta(seconds=GRACE + 1)

    # People.

    def label(self) -> None:
        if self.forge.open and BOT not in self.forge.labels:
            self.forge.change(ALICE, BOT, added=True)
            self.applied.append(self.server.now)
            self.withdrawn_at = None
            self.did["label"] += 1

    def unlabel(self) -> None:
        if not self.forge.open or not {BOT, PROCESSING} & self.forge.labels:
            return
        for label in (BOT, PROCESSING):
            self.forge.change(ALICE, label, added=False)
        self.withdrawn_at = self.server.now
        self.did["unlabel"] += 1

    def close(self) -> None:
        if self.forge.open:
            self.forge.close()
            self.withdrawn_at = self.server.now

    # The forge's administrator.

    def set_clock(self) -> None:
        if not self.did["clock"]:
            self.forge.offset += timedelta(seconds=self.chance.choice((-90, 90)))
            self.did["clock"] += 1

    # Programs.

    def deliver(self) -> None:
        webhooks = self.forge.webhooks
        if not webhooks:
            return
        webhook = webhooks[self.chance.randrange(len(webhooks))]
        if self.chance.random() < 0.8:  # else it comes again
            webhooks.remove(webhook)

        async def act() -> None:
            if isinstance(webhook, Withdrawal):
                await self.sink._withdraw(self.server, webhook)  # type: ignore[arg-type]
                return
            received = webhook.model_copy(update={"received_at": self.server.now})
            await self.submit(TaskRequest(item=ITEM, user=ALICE, trigger=received))

        self.acting.append(act())

    def lose(self) -> None:
        if self.forge.webhooks:
            self.forge.webhooks.pop(self.chance.randrange(len(self.forge.webhooks)))
            self.did["lose"] += 1

    def poll(self) -> None:
        async def act() -> None:
            state = await self.forge.read_state(ITEM)
            applied = await self.forge.label_application(ITEM)
            if state.open and BOT in state.labels and applied is not None and applied.user != US:
                trigger = Trigger(origin=Origin.POLL, labeled_at=applied.at, received_at=self.server.now)
                await self.submit(TaskRequest(item=ITEM, user=ALICE, trigger=trigger))

        self.acting.append(act())

    async def submit(self, request: TaskRequest) -> Submission:
        return await self.sink._submit(self.server, request, set())  # type: ignore[arg-type]

    def reconcile(self) -> None:
        """The reporter works on one run of an item at a time."""
        unreported = [body for body in self.runs() if LABEL_REPORTED not in body["metadata"]["labels"]]
        if not unreported or self.reconciling:
            return
        task = AgentTask.of(self.chance.choice(unreported))
        memory = self.memories.setdefault(task.uid, TaskMemory(task.uid))
        self.reconciling = True

        async def act() -> None:
            with suppress(TaskChangedError):
                await reconcile(self.context, task, memory)
            self.reconciling = False

        self.acting.append(act())

    def operate(self) -> None:
        """The operator starts the oldest run, or ends it if it was cancelled."""
        body = next((body for body in self.runs() if not AgentTask.of(body).ended), None)
        if body is None:
            return
        if body["spec"].get("cancel"):
            self.end(body, "False", "Cancelled")
            self.did["cancelled"] += 1
        elif "phase" not in body.get("status", {}):
            self.record(body, "Running", [])
            self.started[body["metadata"]["name"]] = self.server.now

    def finish_work(self) -> None:
        """An attempt has done its work and reads the item; its end is recorded after a while.

        While the reporter is between reading the item and removing the label, no attempt ends, nor in the
        second of a label: what a person applies again in these moments is lost (docs/decisions/0010).
        """
        last = self.forge.history[-1].at
        if self.reconciling or last == self.forge.second(self.server.now):
            return
        body = next((body for body in self.runs() if not AgentTask.of(body).ended), None)
        if body is None or body.get("status", {}).get("phase") != "Running" or body["spec"].get("cancel"):
            return
        name, at = body["metadata"]["name"], self.server.now
        if at - self.started[name] < SHORTEST_WORK:
            return
        answered = answered_by(self.forge.updated, labeled=BOT in self.forge.labels)

        async def act() -> None:
            await others_act()
            stored = self.server.stored[name]
            if not AgentTask.of(stored).ended and not stored["spec"].get("cancel"):
                self.worked_until[name] = at
                self.end(stored, "True", "Completed", answered)
                self.did["completed"] += 1

        self.acting.append(act())

    def go_on(self) -> None:
        if not self.acting:
            return
        acting = self.chance.choice(self.acting)
        for _ in range(self.chance.randint(1, 8)):
            try:
                acting.send(None)
            except StopIteration:
                self.acting.remove(acting)
                return

    def finish(self) -> None:
        while self.acting:
            self.go_on()

    def pass_time(self) -> None:
        self.server.now += timedelta(milliseconds=self.chance.choice((10, 300, 900, 2500)))

    # What reporter and sink are given.

    def seconds(self) -> float:
        return (self.server.now - START).total_seconds()

    def runs(self) -> list[dict[str, Any]]:
        return sorted(self.server.of_item(), key=lambda body: int(body["spec"]["run"]))

    def record(self, body: dict[str, Any], phase: str, conditions: list[dict[str, str]], **more: Any) -> None:
        known = (body.get("status") or {}).get("conditions") or []
        status = {"phase": phase, "conditions": [*known, *conditions], **more}
        self.server.write({**deepcopy(body), "status": status})

    def end(self, body: dict[str, Any], status: str, reason: str, answered: datetime | None = None) -> None:
        at = self.server.now.isoformat()
        ended = {"type": "Succeeded", "status": status, "reason": reason, "lastTransitionTime": at}
        attempt: dict[str, Any] = {"number": 1, "job": "job-1", "startTime": at}
        if answered is not None:
            attempt["answeredUntil"] = answered.isoformat()
        self.record(body, "Succeeded" if status == "True" else reason, [ended], attempts=[attempt])


@pytest.mark.parametrize(("first", "sets_clock"), [(0, False), (740, False), (840, False), (1000, True)])
def test_every_label_that_stays_has_its_run_and_no_label_that_went_has_one(
    first: int, sets_clock: bool
) -> None:
    did: Counter[str] = Counter()
    for seed in range(first, first + 40):
        race = LabelRace(seed, sets_clock=sets_clock)
        race.run()
        did += race.did
        active = [task for task in race.server.tasks() if works(task)]
        uncancelled = [body for body in race.server.of_item() if not body["spec"].get("cancel")]
        assert len(active) <= 1, seed
        assert len(uncancelled) <= len(race.applied), f"a label was doubled: {seed}"
        if race.withdrawn_at is not None:
            assert not active, f"a label that went has a run: {seed}"
        else:
            covered = any(at >= race.applied[-1] for at in race.worked_until.values())
            assert active or covered, f"a label was lost: {seed}"
    assert min(did[what] for what in ("label", "unlabel", "lose", "cancelled", "completed")) >= 5, did


def ended_run() -> LabelRace:
    """An item whose run has ended, and still has its label."""
    race = LabelRace(0)
    race.label()
    race.deliver()
    race.finish()
    race.operate()
    race.server.now += SHORTEST_WORK
    race.finish_work()
    race.finish()
    return race


def test_an_ended_run_leaves_the_label_to_a_run_that_is_announced() -> None:
    """Otherwise the removal would look like a person's, and cancel that run."""
    race = ended_run()
    [body] = race.runs()
    announced = announcement(race.server.now)["metadata"]["annotations"]
    race.server.write({**body, "metadata": {**body["metadata"], "annotations": announced}})
    race.reconcile()
    race.finish()
    assert BOT in race.forge.labels
    race.server.now += timedelta(seconds=11)
    race.reconcile()
    race.finish()
    assert BOT not in race.forge.labels


def test_a_label_that_is_taken_off_for_the_run_before_is_no_withdrawal_of_its_own_run() -> None:
    """The receiver does not know our account, and the forge lets us write once a second."""
    race = ended_run()
    race.forge.account_known = False
    show_done = race.forge.add_label

    async def apply_again(item: object, label: str) -> None:
        race.server.now += SHORTEST_WORK
        race.unlabel()
        race.label()
        trigger = next(webhook for webhook in race.forge.webhooks[::-1] if isinstance(webhook, Trigger))
        await race.submit(TaskRequest(item=ITEM, user=ALICE, trigger=trigger))
        race.server.now += 3 * SHORTEST_WORK
        await show_done(item, label)

    race.forge.add_label = apply_again  # type: ignore[method-assign, assignment]
    race.reconcile()
    race.finish()
    assert BOT not in race.forge.labels
    while race.forge.webhooks:
        race.deliver()
        race.finish()
    first, second = race.runs()
    assert AgentTask.of(first).ended
    assert works(AgentTask.of(second)), "nobody withdrew the second label"
