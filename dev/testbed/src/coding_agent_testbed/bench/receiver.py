"""What the receiver adds to the cost of its own request: creating an AgentTask directly is the base.

The same load generator sends the creation of AgentTasks to the API server, and webhooks to receivers with
each queue. They take turns; one that has nothing to do costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from coding_agent_core.settings.model import Backend

from coding_agent_testbed.bench import webhooks
from coding_agent_testbed.bench.agent_tasks import creation
from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.load import Loads, Request
from coding_agent_testbed.bench.plane import Account
from coding_agent_testbed.bench.program import Program, free_port, main_py
from coding_agent_testbed.bench.result import Measure, Result, median_case, percentile
from coding_agent_testbed.bench.world import Part, World

_AT_ONCE = 16
_RATE = 200
_STEADY_SECONDS = 6
_ROUND_SECONDS = 10.0
_MEASURES = (
    Measure("per_second", "answers/s", 0),
    Measure("cpu_ms", "program CPU each (ms)", 2, of="plane_ms"),
    Measure("plane_ms", "API server + etcd CPU each (ms)", 2),
    Measure("p50_ms", f"p50 at {_RATE}/s (ms)"),
    Measure("p99_ms", f"p99 at {_RATE}/s (ms)"),
    Measure("refused_percent", f"refused at {_RATE}/s (%)"),
)


@dataclass(frozen=True)
class _Subject:
    """What gets the load.

    Attributes:
        request: makes the request of a number.
        program: whose processor time counts; `None`: there is none.
        on_plane: whether the API server's counts too.
        statuses: the expected answers.
        steady: whether it also gets a steady load.
    """

    name: str
    request: Callable[[int], Request]
    program: Program | None
    on_plane: bool
    statuses: frozenset[int] = frozenset({200})
    steady: bool = True


async def run(world: World) -> Result:
    """Measure; the base is creating AgentTasks directly."""
    count, warm, rounds = world.size(1000, 10), world.size(200, 2), world.size(3, 1)
    numbers = itertools.count(1)
    account = _account(world)
    loads = Loads(world.folder, account.authority)

    def requests(subject: _Subject, most: int) -> Sequence[Request]:
        return [subject.request(next(numbers)) for _ in range(most)]

    async def at_once(subject: _Subject, most: int) -> Mapping[str, float]:
        taken = _taken(world, subject)
        seen = await loads.at_once(
            requests(subject, most), _AT_ONCE, statuses=subject.statuses, seconds=_ROUND_SECONDS
        )
        answered = len(seen.latencies)
        return {
            "per_second": answered / seen.seconds,
            **{
                key: 1000 * (seconds - taken[key]) / answered
                for key, seconds in _taken(world, subject).items()
            },
        }

    async def steadily(subject: _Subject) -> Mapping[str, float]:
        if not subject.steady:
            return {}
        rate = world.size(_RATE, 20)
        most = world.size(_RATE * _STEADY_SECONDS, 20)
        seen = await loads.steadily(requests(subject, most), rate, statuses=subject.statuses)
        known = seen.latencies or [float("inf")]
        return {
            "p50_ms": 1000 * percentile(known, 50),
            "p99_ms": 1000 * percentile(known, 99),
            "refused_percent": 100 * seen.others / most,
        }

    with ExitStack() as stack:
        receivers = {backend: stack.enter_context(receiver(world, backend)) for backend in Backend}
        await asyncio.gather(*(program.ready() for program in receivers.values()))
        subjects = _subjects(account, receivers)
        found: dict[str, list[Mapping[str, float]]] = {subject.name: [] for subject in subjects}
        for subject in subjects:
            await at_once(subject, warm)
        for _ in range(rounds):
            for subject in subjects:
                found[subject.name].append({**await at_once(subject, count), **await steadily(subject)})
    return Result(_MEASURES, tuple(median_case(name, values) for name, values in found.items()))


def _subjects(account: Account, receivers: Mapping[Backend, Program]) -> list[_Subject]:
    one_machine = receivers[Backend.SQLITE]
    return [
        _Subject("create directly", lambda number: creation(account, number), None, True, frozenset({201})),
        *(
            _Subject(
                f"receiver, {backend.value}",
                lambda number, port=receivers[backend].port: webhooks.labeled(number, port),  # type: ignore[misc]
                receivers[backend],
                backend is Backend.KUBERNETES,
            )
            for backend in (Backend.KUBERNETES, Backend.RABBITMQ, Backend.SQLITE)
        ),
        # 429 once the sender has failed too often.
        _Subject(
            "wrong signature",
            lambda number: webhooks.labeled(number, one_machine.port, secret="wrong"),
            one_machine,
            False,
            frozenset({401, 429}),
            steady=False,
        ),
    ]


def _taken(world: World, subject: _Subject) -> dict[str, float]:
    """Seconds of processor time so far, by measure."""
    return {
        **({"cpu_ms": subject.program.cpu_seconds()} if subject.program else {}),
        **({"plane_ms": world.plane.cpu_seconds()} if subject.on_plane else {}),
    }


def _account(world: World) -> Account:
    namespace = world.plane.namespace()
    return Account.of(namespace, world.plane.account(namespace, "receiver/deploy/role.yaml", world.folder))


def receiver(world: World, backend: Backend, name: str = "") -> Program:
    """A receiver for that queue."""
    port = free_port()
    name = name or f"receiver-{backend.value}"
    settings: dict[str, Any] = {
        "queue": {"backend": backend.value},
        "webhook": {
            "server": {"host": "127.0.0.1", "port": port},
            "github": {"secret": webhooks.SECRET},
        },
    }
    if backend is Backend.SQLITE:
        command = ["-m", "coding_agent_testbed.bench.file_receiver", "{config}"]
        return Program(name, command, folder=world.folder, port=port, settings=settings, environment={})
    environment: dict[str, str] = {}
    if backend is Backend.RABBITMQ:
        broker = world.broker
        settings["rabbitmq"] = {"host": broker.host, "port": broker.port}
    else:
        account = _account(world)
        environment = {"KUBECONFIG": str(account.kubeconfig), "POD_NAMESPACE": account.namespace}
    return main_py(
        "webhook", folder=world.folder, port=port, settings=settings, environment=environment, name=name
    )


BENCHMARK = Benchmark(
    name="receiver",
    title=f"Webhooks to the receiver, {_AT_ONCE} at a time, and creating AgentTasks directly",
    needs=frozenset({Part.PLANE, Part.BROKER}),
    limit=420.0,
    run=run,
)
