"""The system in its three modes, with work that ends only when the test lets it."""

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import yaml
from coding_agent_consumer.item.run_check import RunCheck
from coding_agent_core.errors import WithdrawnError
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import ANNOTATION_CANCEL_CAUSE, KIND, AgentTask
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Item, Phase, WithdrawalCause, task_name
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task_file.objects import ObjectFile
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge
from coding_agent_operator.jobs.job import attempt_input
from coding_agent_testbed.forge import ForgeServer, Kind
from coding_agent_testbed.forge.eventlog import ForgeEvent
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.model.server import ModelServer

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.deliveries import SECRET, TOKEN
from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, REPOSITORY, Program, System
from tests.fixtures.system import SECRET as QUEUE_SECRET
from tests.integration.core_kubernetes.place import Place
from tests.integration.label_races.judge import BOT_USER, SeenRun
from tests.integration.main_job.scripts import finish, run
from tests.integration.operator.pod_driver import Ends, PodDriver, reported
from tests.integration.operator.world import OperatorProcess
from tests.integration.operator.world import account as operator_account
from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.process import account as reporter_account
from tests.integration.operator_reporter.world import QUICK as QUICK_REPORTER

_T = TypeVar("_T")

GRACE = 5.0
"""Seconds before the reporter corrects a task, or a consumer looks at the labels: after a late webhook."""
WORK_SECONDS = 1.0


@dataclass(eq=False)
class RaceItem:
    """An issue of a forge; its title says which."""

    forge: ForgeServer
    index: int
    number: int = 0

    @property
    def name(self) -> str:
        """Unique among the items of all forges."""
        return f"{self.forge.flavour.value}-{self.index}"

    def events(self) -> list[ForgeEvent]:
        """What was done with the item, pushes of its work included."""
        branches = {f"coding-agent/issue-{self.number}"}
        return [
            event
            for event in self.forge.events()
            if (event.number == self.number and event.kind is Kind.ISSUE)
            or (event.branch is not None and event.branch.split("-r")[0] in branches)
        ]

    def reads(self) -> list[datetime]:
        """When the bot read the item or anything of it: nobody else uses the forge's API."""
        path = re.compile(rf"/issues/{self.number}(/|$)")
        log = self.forge.run(lambda: list(self.forge.sandbox.requests))
        return [
            datetime.fromtimestamp(one.at, UTC)
            for one in log
            if one.method == "GET" and path.search(one.path)
        ]

    def task(self) -> Item:
        """As tasks name it."""
        project = self.forge.repository(REPOSITORY).id if self.forge.flavour.value == "gitlab" else None
        return Item(
            platform=Platform(self.forge.flavour.value),
            host=host_of(self.forge.api_url),
            repository=REPOSITORY,
            kind=ItemKind.ISSUE,
            number=self.number,
            project_id=project,
        )


class Mode(Protocol):
    """A running system. An item's work does not end while it is held; `runs` has the newest last."""

    def know(self, items: Sequence[RaceItem]) -> None: ...
    def let_end(self, item: RaceItem) -> None: ...
    def hold(self, item: RaceItem) -> None: ...
    def runs(self, items: Sequence[RaceItem]) -> dict[RaceItem, list[SeenRun]]: ...
    def logs(self) -> str: ...


@dataclass
class Queues:
    """On one machine, or over RabbitMQ with a consumer of its own."""

    system: System
    gates: Path
    tasks: ObjectFile | None

    def know(self, items: Sequence[RaceItem]) -> None:
        return

    def let_end(self, item: RaceItem) -> None:
        (self.gates / item.name).touch()

    def hold(self, item: RaceItem) -> None:
        (self.gates / item.name).unlink(missing_ok=True)

    def runs(self, items: Sequence[RaceItem]) -> dict[RaceItem, list[SeenRun]]:
        ends = self._ends()
        return {
            item: [
                replace(seen, phase=ends.get((item.task().identity, run), seen.phase))
                for (run, _), seen in _runs_shown(item.events()).items()
            ]
            for item in items
        }

    def _ends(self) -> dict[tuple[str, int], Phase]:
        """The phases of ended runs in the file: the comment may go from a run that works to the next."""
        stored = self.tasks.list(KIND)[0] if self.tasks is not None else []
        tasks = [AgentTask.of(body) for body in stored]
        return {
            (task.spec.item.identity, task.spec.run): phase
            for task in tasks
            if (phase := task.status.terminal_phase) is not None
        }

    def logs(self) -> str:
        return "\n".join(f"--- {p.log.name}\n{p.text()[-20_000:]}" for p in self.system.programs)


def _runs_shown(events: Sequence[ForgeEvent]) -> dict[tuple[int, str], SeenRun]:
    """The runs, by number and uuid, as the versions of the bot's comment show them."""
    runs: dict[tuple[int, str], SeenRun] = {}
    pushed: datetime | None = None
    for event in events:
        if event.event == "pushed":
            pushed = event.at
        if event.actor != BOT_USER or event.event not in ("commented", "comment_edited"):
            continue
        state = read_state(event.body or "")
        if state is None:
            continue
        for key in [key for key in runs if key[1] != state.uuid and runs[key].phase is Phase.QUEUED]:
            del runs[key]  # it only waited, and another message has taken its place
        key = state.run, state.uuid
        before = runs.get(key)
        ended_at = before.ended_at if before else None
        if ended_at is None and state.phase.terminal:
            ended_at = event.at
        runs[key] = SeenRun(
            f"r{state.run} {state.uuid[:8]}",
            state.phase,
            shown_at=before.shown_at if before else event.at,
            closed=state.phase is Phase.CANCELLED and "was closed" in (event.body or ""),
            worked_until=pushed,
            ended_at=ended_at,
        )
    return runs


def start_queues(
    stack: ExitStack,
    forges: Sequence[ForgeServer],
    folder: Path,
    broker: tuple[Broker, str] | None,
    *,
    concurrency: int,
) -> Queues:
    """Receiver and consumer, in one process or with a broker between them."""
    # The workspace's commands run as another user, who cannot see into the test's own folder.
    gates = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    gates.chmod(0o755)
    wait = f"while [ ! -e {gates}/${{name}} ]; do sleep 0.2; done; date +%s.%N > work-${{name}}.txt"
    script = Script(match=r"Race item (?P<name>[a-z]+-\d+)", turns=(run(wait), finish("Did it.")))
    model = stack.enter_context(ModelServer([script], api_key=MODEL_KEY))
    sections: dict[str, Any] = {
        "consumer": {
            "concurrency": concurrency,
            "workspace": {"isolation": "none"},
        },
        "development": {"cancel_check_interval": GRACE},
        "webhook": {"github": {"secret": QUEUE_SECRET}, "gitlab": {"token": QUEUE_SECRET}},
    }
    for forge in forges:
        sections[forge.flavour.value] = {"api_url": forge.api_url}
    if broker is not None:
        server, queue = broker
        sections |= {
            "use_rabbitmq": True,
            "rabbitmq": {"host": server.host, "port": server.port, "queue": queue, "heartbeat": 30},
        }
    system = System(forges[0], model, folder, sections)
    stack.callback(system.close)
    receiver = system.start_webhook()
    for forge in forges[1:]:
        url = f"http://127.0.0.1:{receiver.port()}/webhook/{forge.flavour.value}"
        forge.add_hook(REPOSITORY, url, QUEUE_SECRET)
    if broker is not None:
        system.start_consumer()
    tasks = None
    if broker is None:
        tasks = ObjectFile(folder / "contexts" / "tasks.sqlite")
        stack.callback(tasks.close)
    return Queues(system, gates, tasks)


@dataclass
class Kubernetes:
    """Receiver, operator and reporter on a control plane; the pods of Jobs are played."""

    place: Place
    programs: list[Program]
    settings: Settings
    checks: dict[str, RunCheck] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    began: dict[str, float] = field(default_factory=dict)
    ended: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    items: dict[str, RaceItem] = field(default_factory=dict)
    others: list[Callable[[], str]] = field(default_factory=list)

    def let_end(self, item: RaceItem) -> None:
        self.open.add(item.name)

    def hold(self, item: RaceItem) -> None:
        self.open.discard(item.name)

    def know(self, items: Sequence[RaceItem]) -> None:
        self.tasks.update({task_name(item.task()): item.name for item in items})
        self.items.update({item.name: item for item in items})

    def script(self, job: str) -> Ends | None:
        """How a Job's pod ends; `None`: not now.

        As in an attempt, `RunCheck` reads the item when the pod starts and before it ends.
        """
        task, _, number = job.rpartition("-")
        began = self.began.setdefault(job, time.monotonic())
        name = self.tasks.get(task) or self.tasks.get(task.rpartition("-r")[0])
        if name is None:
            return None
        check = self.checks.get(job)
        if check is None:
            stored = AgentTask.of(self.place.task(task))
            item = self.items[name].task()
            # The forge's client belongs to an event loop, and each read has a loop of its own.
            check = self.checks[job] = RunCheck(cast("Forge", None), item, attempt_input(stored, int(number)))
            try:
                asyncio.run(self._with_forge(check, check))
            except WithdrawnError as error:
                return reported(Reason.WITHDRAWN, str(error), answered=error.answered)
        if name not in self.open or time.monotonic() - began < WORK_SECONDS:
            return None
        if self.place.task(task)["spec"].get("cancel"):
            return None  # the pod is about to go
        # The pod reads its item between the two, which are apart on a busy machine.
        worked_until = datetime.now(UTC)
        completed = Outcome(reason=Reason.COMPLETED, message="done")
        outcome = asyncio.run(self._with_forge(check, partial(check.at_end, completed)))
        if outcome.reason is Reason.COMPLETED:
            self.ended[task] = worked_until, datetime.now(UTC)
        return Ends(outcome.exit_code.value, outcome.to_termination_message())

    async def _with_forge(self, check: RunCheck, read: Callable[[], Awaitable[_T]]) -> _T:
        check.forge = connect_forge(self.settings, check.item.platform)
        try:
            return await read()
        finally:
            await check.forge.aclose()

    def runs(self, items: Sequence[RaceItem]) -> dict[RaceItem, list[SeenRun]]:
        bodies = sorted(
            self.place.tasks().values(),
            key=lambda body: (body["metadata"]["creationTimestamp"], body["spec"].get("run", 1)),
        )
        found: dict[str, list[SeenRun]] = {}
        for body in bodies:
            name = body["metadata"]["name"]
            item = self.tasks.get(name) or self.tasks[name.rpartition("-r")[0]]
            worked_until, ended_at = self.ended.get(name, (None, None))
            task = AgentTask.of(body)
            seen = SeenRun(
                name,
                task.status.terminal_phase or Phase.RUNNING,
                # The API server gives whole seconds.
                shown_at=task.metadata.created + timedelta(seconds=1),
                closed=task.metadata.annotations.get(ANNOTATION_CANCEL_CAUSE) == WithdrawalCause.CLOSED,
                worked_until=worked_until,
                ended_at=ended_at,
            )
            found.setdefault(item, []).append(seen)
        return {item: found.get(item.name, []) for item in items}

    def logs(self) -> str:
        texts = [f"--- {p.log.name}\n{p.text()[-20_000:]}" for p in self.programs]
        return "\n".join([*texts, *(f"---\n{text()[-20_000:]}" for text in self.others)])


def start_kubernetes(
    stack: ExitStack, forges: Sequence[ForgeServer], folder: Path, plane: PlaneUnderTest, namespace: str
) -> Kubernetes:
    """Receiver, operator and reporter, each under its own account, and a player of pods."""
    place = Place(plane, namespace, folder)
    sections: dict[str, Any] = {
        forge.flavour.value: {"api_url": forge.api_url, "personal_access_token": BOT_TOKEN}
        for forge in forges
    }
    receiver = place.start_receiver(place.account(), forge=sections)
    stack.callback(_end, receiver)
    mode = Kubernetes(place, [receiver], Settings.model_validate(sections))
    for forge in forges:
        url = f"http://127.0.0.1:{receiver.port()}/webhook/{forge.flavour.value}"
        forge.add_hook(REPOSITORY, url, SECRET if forge.flavour.value == "github" else TOKEN)
    stack.enter_context(PodDriver(plane, namespace, mode.script))
    limits = {"limits": {"global": 30, "per_repository": 12}}
    kubeconfig = operator_account(plane, namespace, folder)
    operator = OperatorProcess(kubeconfig, namespace, folder, limits).start()
    stack.callback(operator.stop)
    config = folder / f"reporter-{os.urandom(3).hex()}.yaml"
    own = {
        "operator": {"namespace": namespace},
        "development": {**QUICK_REPORTER, "grace": GRACE, "check_interval": 2.0},
    }
    config.write_text(yaml.safe_dump({**sections, **own}))
    reporter = Reporter(reporter_account(plane, namespace, folder), config).start()
    stack.callback(reporter.stop)
    reporter.ready()
    mode.others = [operator.log, reporter.log]
    return mode


def _end(program: Program) -> None:
    program.terminate()
