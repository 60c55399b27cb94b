"""People label, unlabel, close and reopen one item within seconds, and every program acts in any order.

The API server, the forge and the operator are models. The sink, the rule about labels, the parsers' rule of
which removal is reported, and the reporter are the real ones. Others act before each request and before each
answer, and the reporter may be killed after any of them. The forge's clock is ahead or behind, is set at any
time, and tells whole seconds; its webhooks come late, twice, out of order or not at all; its history shows
events up to ten seconds late. Ended tasks are deleted once their item shows their end.
"""

import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.item.run_check import RunCheck
from coding_agent_core.errors import WithdrawnError
from coding_agent_core.forge.values import Comment, ItemState
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Links, read_state
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import LABEL_REPORTED, AgentTask, Condition
from coding_agent_core.task.agenttask_patches import conditions_patch
from coding_agent_core.task.commands import IssueCommand, store
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position
from coding_agent_core.task.model import (
    CommandName,
    Origin,
    Submission,
    TaskRequest,
    Trigger,
    Trust,
    Withdrawal,
    WithdrawalCause,
    whole_second,
)
from coding_agent_core.task.runs import answered_by, rescan_item, works
from coding_agent_forges.rest.item_events import reaches
from coding_agent_forges.webhooks.events import cancels
from coding_agent_operator.jobs.job import attempt_input
from coding_agent_operator.reporter.forge_context import ForgeContext
from coding_agent_operator.reporter.reconcile_item import TaskChangedError, reconcile
from coding_agent_operator.reporter.report import TaskMemory

from tests.unit.operator.task_server import ITEM, Server, others_act

LABELS = Labels()
BOT, PROCESSING = LABELS.bot_label, LABELS.processing_label
ALICE, US = "alice", "coding-agent-bot"
GRACE = 60.0
START = Server().now
LONGEST_LAG = 10.0
"""The most seconds by which the history is behind."""


class TaskServer(Server):
    """With what the reporter writes; it also keeps the last version of each task that was deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, dict[str, Any]] = {}

    def write(self, body: dict[str, Any]) -> dict[str, Any]:
        self.last[body["metadata"]["uid"]] = deepcopy(body)
        return super().write(body)

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
    """An event of the forge's history.

    Attributes:
        shown_from: when the history shows it first.
        second_read: whether the first read lacks it for some seconds more.
    """

    event: ItemEvent
    shown_from: datetime
    second_read: bool = False


class Forge:
    """One item as `Forge` shows it, and the webhooks that are on their way."""

    platform = Platform.GITHUB

    def __init__(self, server: Server, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        self.offset = timedelta(0)
        self.account_known = True
        self.longest_lag = 0.0
        self.labels: set[str] = set()
        self.open = True
        self.history: list[Event] = []
        self.webhooks: list[Trigger | Withdrawal] = []
        self.comment: Comment | None = None

    @property
    def events(self) -> list[ItemEvent]:
        return [event.event for event in self.history]

    def happen(self, action: ItemAction, user: str, label: str = "") -> datetime:
        """Record an event. Events are shown in their order."""
        at = whole_second(self.server.now + self.offset)
        shown = self.server.now + timedelta(seconds=self.chance.uniform(0, self.longest_lag))
        earlier = self.history[-1].shown_from if self.history else shown
        event = ItemEvent(len(self.history) + 1, action, label, user, at)
        second_read = self.longest_lag > 0 and self.chance.random() < 0.2
        self.history.append(Event(event, max(shown, earlier), second_read))
        return at

    def change(self, user: str, label: str, *, added: bool) -> None:
        if added == (label in self.labels):
            return
        (self.labels.add if added else self.labels.discard)(label)
        at = self.happen(ItemAction.LABELED if added else ItemAction.UNLABELED, user, label)
        ignored = user == US and self.account_known
        if added and label == BOT and user != US:
            self.webhooks.append(
                Trigger(
                    origin=Origin.WEBHOOK,
                    delivery_id=f"d{len(self.history)}",
                    labeled_at=at,
                    received_at=self.server.now,
                )
            )
        elif not added and not ignored and cancels({label}, self.labels, LABELS) is not None:
            self.webhooks.append(Withdrawal(item=ITEM, reason="unlabeled", at=at, user=user))

    def close(self) -> None:
        self.open = False
        at = self.happen(ItemAction.CLOSED, ALICE)
        closed = WithdrawalCause.CLOSED
        self.webhooks.append(Withdrawal(item=ITEM, reason="closed", cause=closed, at=at))

    def reopen(self) -> None:
        self.open = True
        self.happen(ItemAction.REOPENED, ALICE)

    def read(self, after: Position | None) -> ItemHistory:
        """Return what the forge shows now."""
        shown: list[ItemEvent] = []
        for one in self.history:
            if one.shown_from > self.server.now:
                break
            if one.second_read:
                one.second_read = False
                if self.server.now < one.shown_from + timedelta(seconds=LONGEST_LAG):
                    break
            shown.append(one.event)
        # The forge is read page by page from the end, until no page before is needed.
        while after is not None and reaches(shown[1:], after, self.labels & LABELS.active):
            shown.pop(0)
        return ItemHistory(
            events=shown,
            present=frozenset(self.labels),
            open=self.open,
            triggers=LABELS.triggers,
            active=LABELS.active,
            own_login=US,
        )

    # The part of the protocol that the reporter uses.

    async def whoami(self) -> str:
        return US

    async def trust(self, _: object) -> Trust:
        return Trust(trusted=False)

    async def read_state(self, _: object) -> ItemState:
        await others_act()
        state = ItemState(frozenset(self.labels), self.open)
        await others_act()
        return state

    async def item_history(self, _: object, after: Position | None) -> ItemHistory:
        await others_act()
        present, is_open = frozenset(self.labels), self.open
        await others_act()
        history = replace(self.read(after), present=present, open=is_open)
        await others_act()
        return history

    async def add_label(self, _: object, label: str) -> None:
        await others_act()
        self.change(US, label, added=True)

    async def remove_label(self, _: object, label: str) -> bool:
        await others_act()
        there = label in self.labels
        self.change(US, label, added=False)
        return there

    async def find_comment(self, *_: object) -> Comment | None:
        await others_act()
        return self.comment

    async def upsert_comment(self, _: object, __: str, body: str, **___: object) -> Comment:
        await others_act()
        self.comment = Comment("1", US, body, self.server.now)
        await others_act()
        return self.comment


class LabelRace:
    """One item. A run works until its attempt is told to end."""

    def __init__(self, seed: int, *, longest_lag: float = 0.0) -> None:
        self.chance = random.Random(seed)
        self.server = TaskServer()
        self.forge = Forge(self.server, self.chance)
        self.forge.offset = timedelta(milliseconds=self.chance.randint(-400_000, 400_000))
        self.forge.account_known = self.chance.random() < 0.7
        self.forge.longest_lag = longest_lag
        self.sink = KubernetesSink(Access(None), "ns", Consumer(), now=lambda: self.server.now)
        self.context = ForgeContext(
            forge=self.forge,  # type: ignore[arg-type]
            labels=LABELS,
            links=Links("https://github.com", "coding-agent/"),
            tasks=self.server,  # type: ignore[arg-type]
            sink=SimpleNamespace(submit_next=self.submit_next),  # type: ignore[arg-type]
            clocks=Development(grace=GRACE),
            clock=lambda: self.server.now,
            monotonic=self.seconds,
        )
        self.memories: dict[str, TaskMemory] = {}
        self.acting: list[Coroutine[Any, Any, None]] = []
        self.reporter: Coroutine[Any, Any, None] | None = None
        self.done: list[str] = []
        """The uids of the runs that did their work."""
        self.checks: dict[str, RunCheck] = {}
        self.began: dict[str, datetime] = {}
        self.did: Counter[str] = Counter()
        self.log: list[str] = []

    def run(self) -> None:
        """People and programs act at random, then everybody else until nothing changes any more."""
        actions: dict[Callable[[], None], int] = {
            self.label: 4,
            self.unlabel: 3,
            self.close: 1 if self.chance.random() < 0.2 else 0,
            self.reopen: 1,
            self.deliver: 5,
            self.lose: 1,
            self.poll: 1,
            self.reconcile: 6,
            self.kill: 1,
            self.operate: 4,
            self.push: 1,
            self.finish_work: 1,
            self.sweep: 1,
            self.go_on: 14,
            self.pass_time: 6,
            self.set_clock: 1,
        }
        self.label()
        for count in (80, 60):
            for action in self.chance.choices(list(actions), list(actions.values()), k=count):
                action()
            self.settle()
            self.sweep()

    def settle(self) -> None:
        """Everybody but the people acts until nothing changes any more."""
        for _ in range(12):
            while self.forge.webhooks:
                self.deliver()
                self.finish()
            self.poll()
            self.finish()
            for _ in range(6):
                self.operate()
                self.reconcile()
                self.finish()
            self.finish_work()
            self.finish()
            self.server.now += timedelta(seconds=GRACE + 1)

    # People.

    def label(self) -> None:
        if self.forge.open and BOT not in self.forge.labels:
            self.forge.change(ALICE, BOT, added=True)
            self.did["label"] += 1

    def unlabel(self) -> None:
        if not self.forge.open or not {BOT, PROCESSING} & self.forge.labels:
            return
        for label in (BOT, PROCESSING):
            self.forge.change(ALICE, label, added=False)
        self.did["unlabel"] += 1

    def close(self) -> None:
        if self.forge.open:
            self.forge.close()
            self.did["close"] += 1

    def reopen(self) -> None:
        if not self.forge.open:
            self.forge.reopen()

    # The forge's administrator.

    def set_clock(self) -> None:
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
        """A poll finds items by their label, and ignores those that our own account has labeled."""

        async def act() -> None:
            await others_act()
            applied = [event for event in self.forge.events if event.label == BOT and event.user != US]
            if self.forge.open and BOT in self.forge.labels and applied:
                trigger = Trigger(origin=Origin.POLL, labeled_at=applied[-1].at, received_at=self.server.now)
                await self.submit(TaskRequest(item=ITEM, user=ALICE, trigger=trigger))

        self.acting.append(act())

    async def submit(self, request: TaskRequest) -> Submission:
        return await self.sink._submit(self.server, request, set())  # type: ignore[arg-type]

    async def submit_next(self, request: TaskRequest, answered: Position) -> Submission:
        return await self.sink._submit_next(self.server, request, set(), answered)  # type: ignore[arg-type]

    def reconcile(self) -> None:
        """The reporter works on one run of an item at a time."""
        unreported = [
            body for body in self.runs() if body["metadata"]["labels"].get(LABEL_REPORTED) != "true"
        ]
        if not unreported or self.reporter in self.acting:
            return
        task = AgentTask.of(deepcopy(self.chance.choice(unreported)))
        memory = self.memories.setdefault(task.uid, TaskMemory(task.uid))

        async def act() -> None:
            with suppress(TaskChangedError):
                await reconcile(self.context, task, memory)

        self.reporter = act()
        self.acting.append(self.reporter)

    def kill(self) -> None:
        """The reporter is killed between two requests; the next one remembers nothing."""
        if self.reporter in self.acting and self.chance.random() < 0.3:
            assert self.reporter is not None
            self.acting.remove(self.reporter)
            self.reporter.close()
            self.memories.clear()
            self.did["kill"] += 1

    def operate(self) -> None:
        """The operator starts the oldest run that may start, or ends one that was cancelled."""
        tasks = [AgentTask.of(body) for body in self.runs()]
        for task in tasks:
            if not task.ended and task.spec.cancel:
                self.end(task.name, "False", "Cancelled")
                self.did["cancelled"] += 1
                return
        waiting = [task for task in tasks if not task.ended]
        if any(task.status.attempts for task in waiting):
            return
        for task in waiting:
            unread = task.spec.trigger.by_label and answered_by(task) is None and len(tasks) > 1
            if not unread:
                self.start(task)
                return

    def start(self, task: AgentTask) -> None:
        attempt = {"number": 1, "job": "job-1", "startTime": self.server.now.isoformat()}
        self.record(self.server.stored[task.name], "Running", [], attempts=[attempt])
        self.log.append(f"{task.name} starts")
        remembered = read_state(self.forge.comment.body) if self.forge.comment else None
        position = Position.parse(remembered.answered) if remembered is not None else None
        check = RunCheck(self.forge, ITEM, attempt_input(task, 1), position)  # type: ignore[arg-type]
        self.checks[task.uid], self.began[task.uid] = check, self.server.now
        self.acting.append(self.check(task, check))

    def push(self) -> None:
        """An attempt asks before it pushes."""
        if (working := self.working()) is not None:
            self.acting.append(self.check(*working))

    async def check(self, task: AgentTask, check: RunCheck) -> None:
        with suppress(WithdrawnError):
            await check()
            return
        # The attempt ends by itself, unless somebody else has ended it.
        await self.finish_attempt(task, check)

    def finish_work(self) -> None:
        """An attempt has done its work and reads the item's history; its end is recorded after a while."""
        if (working := self.working()) is not None:
            self.acting.append(self.finish_attempt(*working))

    async def finish_attempt(self, task: AgentTask, check: RunCheck) -> None:
        answered: str | None = None
        try:
            late = (self.server.now - self.began[task.uid]).total_seconds() >= 2 * LONGEST_LAG
            decision = await check(current=late)
            # The attempt waits until the history shows its label; here, another action ends it then.
            if decision.unsure:
                return
            answered, withdrawn = str(decision.position), False
        except WithdrawnError as error:
            answered, withdrawn = error.answered, True
        await others_act()
        stored = self.server.stored.get(task.name)
        if stored is None or stored["metadata"]["uid"] != task.uid:
            return
        now = AgentTask.of(stored)
        if now.ended or now.spec.cancel:
            return
        if withdrawn:
            self.end(task.name, "False", "Cancelled", answered)
            self.did["withdrawn"] += 1
        else:
            self.end(task.name, "True", "Completed", answered)
            self.did["completed"] += 1

    def working(self) -> tuple[AgentTask, RunCheck] | None:
        """Return the run that has an attempt, and the attempt's check."""
        tasks = (AgentTask.of(body) for body in self.runs())
        task = next((task for task in tasks if not task.ended and task.status.attempts), None)
        return None if task is None or task.spec.cancel else (task, self.checks[task.uid])

    def sweep(self) -> None:
        """Ended tasks are deleted once their item shows their end."""
        for body in self.runs():
            if body["metadata"]["labels"].get(LABEL_REPORTED) == "true" and self.chance.random() < 0.3:
                del self.server.stored[body["metadata"]["name"]]
                self.did["sweep"] += 1

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
        self.server.now += timedelta(
            milliseconds=self.chance.choice((10, 300, 300, 900, 900, 2500, 2500, 61_000))
        )

    # What reporter and sink are given.

    def seconds(self) -> float:
        return (self.server.now - START).total_seconds()

    def runs(self) -> list[dict[str, Any]]:
        return sorted(self.server.of_item(), key=lambda body: int(body["spec"]["run"]))

    def record(self, body: dict[str, Any], phase: str, conditions: list[dict[str, str]], **more: Any) -> None:
        known = body.get("status") or {}
        kept = {"attempts": known.get("attempts") or []}
        status = {"phase": phase, "conditions": [*(known.get("conditions") or []), *conditions]}
        self.server.write({**deepcopy(body), "status": {**kept, **status, **more}})

    def end(self, name: str, status: str, reason: str, answered: str | None = None) -> None:
        body, at = self.server.stored[name], self.server.now.isoformat()
        ended = {"type": "Succeeded", "status": status, "reason": reason, "lastTransitionTime": at}
        attempts = deepcopy((body.get("status") or {}).get("attempts") or [])
        if attempts and answered is not None:
            attempts[-1]["answered"] = answered
        self.record(body, "Succeeded" if status == "True" else reason, [ended], attempts=attempts)
        self.log.append(f"{name} {reason} {answered or ''}")
        if status == "True":
            self.done.append(body["metadata"]["uid"])


def wrong(race: LabelRace) -> list[str]:
    """Return what breaks a promise, from the forge's events and the runs that did work alone."""
    labels, is_open, asking, is_shown = set[str](), True, 0, False
    asked: list[int] = []
    withdrawn: list[int] = []
    for event in race.forge.events:
        match event.action:
            case ItemAction.LABELED:
                labels.add(event.label)
            case ItemAction.UNLABELED:
                labels.discard(event.label)
            case _:
                is_open = event.action is ItemAction.REOPENED
        if event.user == US:
            is_shown = is_shown or event.action is ItemAction.LABELED
            continue
        if event.action is ItemAction.LABELED and event.label == BOT and is_open:
            asking, is_shown = event.id, False
            asked.append(event.id)
        removed = event.action is ItemAction.UNLABELED and event.label in LABELS.active
        if event.action is ItemAction.CLOSED or (removed and not labels & LABELS.active):
            asking = 0
            withdrawn.append(event.id)
        elif removed and event.label != BOT and is_shown:
            asking = 0  # the label that is left has its run, and this stops it
    found: list[str] = []
    done = [AgentTask.of(race.server.last[uid]) for uid in race.done]
    answers = [(answered_by(run) or Position()).ids for run in done]
    active = [task for task in race.server.tasks() if works(task)]
    if asking and not active and not any(ids and ids[0] >= asking for ids in answers):
        found.append(f"application {asking} was lost")
    if not asking and active:
        found.append(f"{active[0].name} works although nothing asks for it")
    if len(active) > 1:
        found.append("two runs are active")
    before = 0
    for run, ids in zip(done, answers, strict=True):
        until = ids[0] if ids else 0
        own = [one for one in asked if before < one <= until]
        if not own:
            found.append(f"{run.name} was doubled: it answers no application from {before} to {until}")
        elif any(own[-1] < one <= until for one in withdrawn):
            found.append(f"{run.name} did its work although it was withdrawn")
        before = max(before, until)
    return found


def story(race: LabelRace) -> str:
    """Return what happened, for a message."""
    events = [f"{e.id} {e.user} {e.action} {e.label}" for e in race.forge.events]
    runs = [
        f"{t.name} {t.status.phase} cancel={t.spec.cancel} answered={answered_by(t)} {t.metadata.annotations}"
        for t in race.server.tasks()
    ]
    return "\n".join([*events, *race.log, *runs])


@pytest.mark.parametrize("longest_lag", [0.0, 10.0])
@pytest.mark.parametrize("first", [0, 740, 840, 1000])
def test_every_label_that_stays_has_its_run_and_no_label_that_went_has_one(
    first: int, longest_lag: float
) -> None:
    did: Counter[str] = Counter()
    for seed in range(first, first + 40):
        race = LabelRace(seed, longest_lag=longest_lag)
        race.run()
        did += race.did
        problems = wrong(race)
        assert not problems, f"seed {seed}: {problems}\n{story(race)}"
    acts = ("label", "unlabel", "lose", "cancelled", "completed", "kill", "sweep", "clock")
    assert min(did[what] for what in acts) >= 5, did


@pytest.mark.parametrize("command", [False, True])
def test_what_is_asked_for_during_the_last_write_on_an_ended_run_is_read(command: bool) -> None:
    race = LabelRace(0)
    race.label()
    race.settle()
    [ended] = race.server.tasks()
    assert ended.reported
    del race.server.stored[ended.name]["metadata"]["labels"][LABEL_REPORTED]
    set_conditions, asked = race.server.set_conditions, list[AgentTask]()

    async def others_ask_first(
        task: AgentTask, wanted: Sequence[Condition], now: datetime
    ) -> AgentTask | None:
        if not asked:
            asked.append(task)
            retry = IssueCommand(name=CommandName.RETRY, comment="1", user=ALICE, received_at=now, item=ITEM)
            by_command = store(task, retry)
            assert isinstance(by_command, dict)
            await race.server.patch(task, by_command if command else rescan_item(task, now, None))
        return await set_conditions(task, wanted, now)

    race.server.set_conditions = others_ask_first  # type: ignore[method-assign, assignment]
    race.memories[ended.uid] = TaskMemory(ended.uid, end_shown=START)
    race.reconcile()
    race.finish()
    [left] = race.server.tasks()
    assert asked
    assert left.metadata.labels.get(LABEL_REPORTED) != "true"
