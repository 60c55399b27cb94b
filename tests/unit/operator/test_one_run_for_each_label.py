"""Receivers, polls, the sweep, withdrawals and people act on one item in any order, request by request.

The API server is a model; the sink, admission, the sweep and the search for duplicates are the real ones.
"""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

from coding_agent_core.admission import Create, admit, latest_of, must_check_label, works
from coding_agent_core.agenttask import LABEL_REPORTED, AgentTask, manifest
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access, ApiError
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger, Withdrawal, task_name
from coding_agent_operator.runs import Duplicates, delete, expired
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.operator.task_server import ITEM, others_act
from tests.unit.operator.task_server import Server as TaskServer

KEEP = timedelta(hours=2)
TRIES = 8


class Server(TaskServer):
    """Loses answers, has lists without a cache, and knows which tasks admission would not have created."""

    def __init__(self) -> None:
        super().__init__()
        self.unjustified: set[str] = set()
        """Uids of tasks that admission would not have created then, and that nobody is asked to look at."""
        self.lost_answers = 0
        self.refused_lists = 0
        """Of the next lists, how many find the API server without a cache."""

    def add(self, body: dict[str, Any]) -> AgentTask:
        task = AgentTask.of(body)
        is_right = isinstance(admit(task.spec.trigger, latest_of(self.tasks())), Create)
        added = super().add(body)
        if not is_right and not must_check_label(task):
            self.unjustified.add(added.uid)
        return added

    async def runs(self, _: Item) -> Sequence[AgentTask]:
        await others_act()
        if self.refused_lists:
            self.refused_lists -= 1
            raise ApiError("429: storage is (re)initializing", 429)
        answer = self.tasks()
        await self.answer()
        return answer

    async def answer(self) -> None:
        await super().answer()
        if self.lost_answers:
            self.lost_answers -= 1
            raise ApiError("no answer", None)


class OneItem(RuleBasedStateMachine):
    """One item; nobody deletes or writes tasks by hand."""

    by_hand = False

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.sink = KubernetesSink(Access(None), "ns", Consumer(), now=lambda: self.server.now)
        self.duplicates = Duplicates(self.server, self, lambda: self.server.now)  # type: ignore[arg-type]
        self.acting: list[Coroutine[Any, Any, None]] = []
        self.cached: dict[str, AgentTask] = {}
        self.started: set[str] = set()
        self.judging: set[str] = set()
        self.labeled: list[datetime] = []
        self.withdrawn: list[datetime] = []
        self.label_on = False
        self.answered: list[datetime] = []

    def of(self, _: str) -> list[AgentTask]:
        """The operator's cache."""
        return list(self.cached.values())

    @initialize()
    def first_label(self) -> None:
        self.label(1, 0)

    @rule(pause=st.integers(1, 900), late=st.integers(0, 5))
    def label(self, pause: int, late: int) -> None:
        self.pass_time(pause)
        self.labeled.append(self.server.now)
        self.label_on = True
        self.deliver(len(self.labeled) - 1, late)

    @rule(which=st.integers(0, 9), late=st.integers(0, 5))
    def deliver(self, which: int, late: int) -> None:
        """Its webhook comes, to one of the receivers, perhaps again, and perhaps a week later."""
        index = which % len(self.labeled)
        self.submit(
            Trigger(
                origin=Origin.WEBHOOK,
                delivery_id=f"d{index}",
                labeled_at=self.labeled[index],
                received_at=self.server.now + timedelta(seconds=late),
            )
        )

    @precondition(lambda self: self.label_on)
    @rule()
    def poll(self) -> None:
        self.submit(Trigger(origin=Origin.POLL, received_at=self.server.now))

    @precondition(lambda self: self.label_on)
    @rule(pause=st.integers(1, 60))
    def withdraw(self, pause: int) -> None:
        self.pass_time(pause)
        at = self.server.now
        self.withdrawn.append(at)
        self.label_on = False
        withdrawal = Withdrawal(item=ITEM, reason="unlabeled", at=at)

        async def act() -> None:
            await _persistently(lambda: self.sink._withdraw(self.server, withdrawal))  # type: ignore[arg-type]

        self.acting.append(act())

    def submit(self, trigger: Trigger) -> None:
        request, sent = TaskRequest(item=ITEM, trigger=trigger), set[str]()

        async def act() -> None:
            await _persistently(lambda: self.sink._submit(self.server, request, sent))  # type: ignore[arg-type]
            if trigger.labeled_at is not None:
                self.answered.append(trigger.labeled_at)

        self.acting.append(act())

    @precondition(lambda self: self.acting)
    @rule(which=st.integers(0, 20), steps=st.integers(1, 6))
    def go_on(self, which: int, steps: int) -> None:
        acting = self.acting[which % len(self.acting)]
        for _ in range(steps):
            try:
                acting.send(None)
            except StopIteration:
                self.acting.remove(acting)
                return

    @rule()
    def lose_an_answer(self) -> None:
        self.server.lost_answers = 1

    @rule(lists=st.integers(1, 3))
    def change_the_crd(self, lists: int) -> None:
        self.server.refused_lists = lists

    @rule()
    def watch(self) -> None:
        """The operator's cache shows what is stored."""
        known = {name: body for name, body in self.server.stored.items() if _active(body)}
        self.cached = {name: AgentTask.of(body) for name, body in known.items()}

    @rule(which=st.integers(0, 9))
    def reconcile(self, which: int) -> None:
        """The operator sees a new task, and starts it unless it is a duplicate."""
        new = [task for task in self.cached.values() if task.status.phase is None and not task.spec.cancel]
        new = [task for task in new if task.uid not in self.judging]
        if not new:
            return
        task = new[which % len(new)]
        self.judging.add(task.uid)

        async def act() -> None:
            try:
                if await self.duplicates.cancelled(task):
                    return
            except ApiError:
                return
            finally:
                self.judging.discard(task.uid)
            self.start(task)

        self.acting.append(act())

    def start(self, task: AgentTask) -> None:
        body = self.server.stored.get(task.name)
        if body is None or body["metadata"]["uid"] != task.uid or body["spec"].get("cancel"):
            return
        if "status" in body:
            return  # the cache was behind; the API server refuses it
        # With requests under way, a person who deletes run 1 can also make run 2 one too many.
        if task.uid in self.server.unjustified and task.name == task_name(ITEM):
            others = [other for other in self.server.tasks() if other.uid != task.uid]
            decision = admit(task.spec.trigger, latest_of(others))
            assert isinstance(decision, Create), f"{task.name} is started, and {decision}"
        self.started.add(task.uid)
        self.label_on = False
        conditions = [{"type": "LabelsShown", "status": "True", "reason": "Shown"}]
        self.record(body, "Running", conditions)

    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        """An attempt has ended, or a cancelled task has none."""
        over = [
            task
            for task in self.cached.values()
            if (body := self.server.stored.get(task.name)) is not None
            and body["metadata"]["uid"] == task.uid
            and _active(body)
            and (task.uid in self.started or body["spec"].get("cancel"))
        ]
        if not over:
            return
        task = over[which % len(over)]
        body = self.server.stored[task.name]
        reason = "Cancelled" if body["spec"].get("cancel") else "Completed"
        status = "False" if body["spec"].get("cancel") else "True"
        conditions = [
            {"type": "Succeeded", "status": status, "reason": reason},
            {"type": "LabelsShown", "status": "True", "reason": "Shown"},
        ]
        self.duplicates.ended(task)
        self.record(body, reason, conditions)
        self.server.stored[task.name]["metadata"]["labels"][LABEL_REPORTED] = "true"
        del self.cached[task.name]

    def record(self, body: dict[str, Any], phase: str, conditions: list[dict[str, str]]) -> None:
        at = self.server.now.isoformat()
        status = {"phase": phase, "conditions": [{**entry, "lastTransitionTime": at} for entry in conditions]}
        self.server.write({**deepcopy(body), "status": status})

    @rule(which=st.integers(0, 9))
    def sweep(self, which: int) -> None:
        tasks = [AgentTask.of(body) for body in self.server.of_item() if not _active(body)]
        due = [task for task in tasks if expired(task, self.server.now, KEEP)]
        if not due:
            return
        task = due[which % len(due)]

        async def act() -> None:
            with suppress(ApiError):
                await delete(self.server, task, self.server.now)  # type: ignore[arg-type]

        self.acting.append(act())

    @rule(hours=st.sampled_from([1, 3, 24, 170]))
    def much_later(self, hours: int) -> None:
        self.pass_time(hours * 3600)

    def pass_time(self, seconds: int) -> None:
        """Requests take seconds: all that is under way ends first."""
        if seconds > 60:
            self.finish()
        self.server.now += timedelta(seconds=seconds)

    def finish(self) -> None:
        while self.acting:
            self.go_on(0, 6)

    @invariant()
    def admission_was_right(self) -> None:
        assert self.by_hand or not self.server.unjustified

    def teardown(self) -> None:
        """All that was brought is carried out; the last label has a task, or was taken back."""
        self.finish()
        for _ in range(4):
            self.watch()
            self.reconcile(0)
            self.finish()
        working = [task for task in self.server.tasks() if works(task)]
        assert self.by_hand or len(working) <= 1
        last = max(self.answered, default=None)
        taken_back = any(last is None or at >= last for at in self.withdrawn)
        if last is None or taken_back or self.by_hand:
            return
        if self.server.now - last < timedelta(hours=1):
            known = latest_of(self.server.tasks())
            assert known is not None
            assert known.labeled_at == last


class OneItemAndPeople(OneItem):
    """People delete tasks by hand, and write some."""

    by_hand = True

    @rule(which=st.integers(0, 9))
    def delete_by_hand(self, which: int) -> None:
        if names := sorted(self.server.stored):
            del self.server.stored[names[which % len(names)]]

    @precondition(lambda self: not self.server.stored)
    @rule()
    def write_by_hand(self) -> None:
        trigger = Trigger(origin=Origin.MANUAL, cause=None, received_at=self.server.now)
        body = manifest(TaskRequest(item=ITEM, trigger=trigger), run=1)
        body["metadata"]["name"] = "by-hand"
        self.server.add(body)


async def _persistently(operation: Any) -> None:
    """As the sink does when a request gets no answer, and the forge when the sink gives up."""
    for _ in range(2 * TRIES):
        try:
            await operation()
        except ApiError:
            continue
        return
    raise AssertionError("no answer at all")


def _active(body: Mapping[str, Any]) -> bool:
    return LABEL_REPORTED not in body["metadata"]["labels"]


_SETTINGS = settings(max_examples=40, stateful_step_count=50)
TestOneItem = OneItem.TestCase
TestOneItem.settings = _SETTINGS
TestOneItemAndPeople = OneItemAndPeople.TestCase
TestOneItemAndPeople.settings = _SETTINGS
