"""The system without Kubernetes: receiver, two consumers and a poller over a broker of the run's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import yaml
from coding_agent_testbed.bench.broker import Broker
from coding_agent_testbed.cluster.network import free_ports

from tests.chaos.forges import TriedForge
from tests.chaos.history import ENDED
from tests.chaos.pods import wait
from tests.chaos.processes import ended, fingerprints, group_of, stopped
from tests.chaos.promises import Promises
from tests.chaos.proxies import TcpProxy
from tests.chaos.readers import shown_state
from tests.chaos.sandboxes import BOT_LOGIN, PEOPLE, REPOSITORIES, Sandboxes, machine, start_sandboxes
from tests.chaos.world import Effect, StartFault, Undo, WorldError
from tests.fixtures.system import MODEL_KEY, ROOT, SECRET

CONSUMERS = ("consumer-1", "consumer-2")
_SERVES_SECONDS = 120.0
_POLL_SECONDS = 15
_START_SECONDS = 90.0
"""The work of the items that a consumer may have taken before."""
_QUIET_SECONDS = 25.0
"""No retry waits longer: when the forge sees nothing for so long, nothing is under way."""
_READY = {"receiver": "Webhook server listening on", "consumer": "Ready for tasks", "poller": ""}


@dataclass
class Program:
    """A `main.py` process that is started again when it was killed, as a supervisor does."""

    name: str
    command: list[str]
    folder: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            WorldError: it does not, in time.
        """
        self.log.touch()
        seen = self.log.stat().st_size
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ready = _READY[self.name.split("-")[0]]

        def serves() -> bool:
            with self.log.open("rb") as log:
                log.seek(seen)
                return ready.encode() in log.read()

        wait(f"{self.name} serves", serves, seconds=_SERVES_SECONDS, alive=self.check)

    def check(self) -> None:
        """See that it lives.

        Raises:
            WorldError: it does not; the end of its log is in the message.
        """
        if self.process is None or self.process.poll() is not None:
            status = self.process.returncode if self.process else "never started"
            text = self.log.read_text(errors="replace")[-2000:]
            raise WorldError(f"{self.name} has ended by itself with status {status}: {text}")

    def pids(self) -> list[int]:
        """The processes that a signal of `send` reaches: itself and what it has started."""
        return group_of(self.process.pid) if self.process is not None else []

    def send(self, number: signal.Signals) -> None:
        """Signal it with all that it has started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)
            if number is signal.SIGKILL:
                self.process.wait(60)


@dataclass
class RabbitMQWorld:
    """See `World`.

    Attributes:
        ways: the way of each program to the broker.
        broken: the programs, and `broker`, that a fault has broken.
    """

    sandboxes: Sandboxes
    broker: Broker
    programs: Mapping[str, Program]
    ways: Mapping[str, TcpProxy]
    folder: Path
    port: int
    broken: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def forge(self) -> TriedForge:
        return self.sandboxes.forge

    @property
    def repositories(self) -> Sequence[str]:
        return REPOSITORIES

    @property
    def people(self) -> Mapping[str, str]:
        return PEOPLE

    @property
    def faults(self) -> Mapping[str, StartFault]:
        made: dict[str, StartFault] = {}
        for name in ("receiver", "poller"):
            made[f"kill {name}"] = self._kill((name,))
            made[f"stop {name}"] = self._stop((name,))
        made["kill consumer"] = self._kill(CONSUMERS)
        made["stop consumer"] = self._stop(CONSUMERS)
        made["kill broker"] = lambda _: self._break_broker(self.broker.kill)
        made["stop broker"] = lambda _: self._break_broker(self.broker.freeze)
        made["restart broker"] = lambda _: self._break_broker(self.broker.stop)
        made["cut consumer from broker"] = self._cut(CONSUMERS)
        made["cut receiver from broker"] = self._cut(("receiver",))
        made["delay between programs and broker"] = self._delay
        made["cut programs from forge"] = lambda _: self.sandboxes.forge_way.cut()
        made["cut programs from model"] = lambda _: self.sandboxes.model_way.cut()
        made["reset consumer's connection"] = self._reset(CONSUMERS)
        made |= self.sandboxes.faults()
        made |= self.sandboxes.delivery_faults(self._resend_comments)
        return {kind: self._until_whole(start) for kind, start in made.items()}

    def records(self) -> Iterator[dict[str, Any]]:
        yield from self.sandboxes.records()

    def promises(self) -> Promises:
        # A run shows itself only when a consumer takes it, which has other work: that takes longer than 30 s.
        # A withdrawal is seen when the consumer looks, each second, and a command ends within seconds.
        return Promises(
            bot=BOT_LOGIN,
            platform=self.sandboxes.platform,
            members=frozenset(login for login, role in PEOPLE.items() if role == "member"),
            start=_START_SECONDS,
            poll=2.0 * _POLL_SECONDS,
        )

    def idle(self) -> bool:
        events = self.forge.events()
        newest = max((event.at.timestamp() for event in events), default=0.0)
        shown: dict[tuple[Any, ...], str] = {}
        for event in events:
            state = shown_state(event.body or "") if event.actor == BOT_LOGIN else None
            if state is not None:
                shown[event.repository, event.kind, event.number] = state.phase
        return (
            time.time() - newest > _QUIET_SECONDS
            and all(phase in ENDED for phase in shown.values())
            and self.sandboxes.all_delivered()
        )

    def check(self) -> None:
        """See `World`."""
        for name, program in self.programs.items():
            if name not in self.broken:
                program.check()
        self.sandboxes.check()

    def description(self) -> Mapping[str, str]:
        return machine(mode="RabbitMQ", consumers=str(len(CONSUMERS)), **self.sandboxes.description())

    def logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for log in [*self.folder.glob("*.log"), *self.folder.glob("rabbitmq/log/*.log")]:
            shutil.copy(log, folder / log.name)
        self.sandboxes.logs(folder)

    def whole(self) -> None:
        """Wait until the receiver answers.

        Raises:
            WorldError: it does not, in time.
        """

        def answers() -> bool:
            with self._lock:
                if "receiver" in self.broken or "broker" in self.broken:
                    return True  # another fault has broken it, and waits for it
            url = f"http://127.0.0.1:{self.port}/readyz"
            return httpx2.get(url, timeout=5, trust_env=False).status_code == 200

        wait("the receiver serves", answers, seconds=_SERVES_SECONDS, alive=self.check)

    def close(self) -> None:
        """End everything."""
        for program in self.programs.values():
            program.send(signal.SIGCONT)
            program.send(signal.SIGKILL)
        for way in self.ways.values():
            way.close()

    def _resend_comments(self) -> None:
        """Let people send the comments again that no receiver accepted: only GitHub's poll finds them.

        Labels wait for the next poll.
        """
        if self.sandboxes.platform != "github":
            self.sandboxes.deliveries.resend_comments()
            wait("all deliveries", self.sandboxes.all_delivered, seconds=_SERVES_SECONDS)

    def _until_whole(self, start: StartFault) -> StartFault:
        def begin(random: Random) -> Undo:
            failed = self.sandboxes.deliveries.failed
            undo = start(random)

            def end() -> Effect:
                effect = undo()
                self.whole()
                if self.sandboxes.deliveries.failed > failed:
                    self._resend_comments()
                return effect

            return end

        return begin

    def _mark(self, name: str, *, broken: bool) -> None:
        with self._lock:
            (self.broken.add if broken else self.broken.discard)(name)

    def _kill(self, names: Sequence[str]) -> StartFault:
        def start(random: Random) -> Undo:
            program = self.programs[random.choice(names)]
            self._mark(program.name, broken=True)
            before = fingerprints(program.pids())
            program.send(signal.SIGKILL)

            def undo() -> Effect:
                effect = ended(before)
                program.start()
                self._mark(program.name, broken=False)
                return effect

            return undo

        return start

    def _stop(self, names: Sequence[str]) -> StartFault:
        def start(random: Random) -> Undo:
            program = self.programs[random.choice(names)]
            pids = program.pids()
            program.send(signal.SIGSTOP)

            def undo() -> Effect:
                effect = stopped(pids)
                program.send(signal.SIGCONT)
                return effect

            return undo

        return start

    def _break_broker(self, strike: Callable[[], None]) -> Undo:
        self._mark("broker", broken=True)
        pids = [self.broker.pid]
        before = fingerprints(pids)
        strike()

        def undo() -> Effect:
            gone, still = ended(before), stopped(pids)
            self.broker.start()
            self._mark("broker", broken=False)
            return gone if gone.count else still

        return undo

    def _cut(self, names: Sequence[str]) -> StartFault:
        def start(random: Random) -> Undo:
            return self.ways[random.choice(names)].cut()

        return start

    def _reset(self, names: Sequence[str]) -> StartFault:
        def start(random: Random) -> Undo:
            effect = self.ways[random.choice(names)].reset()
            return lambda: effect

        return start

    def _delay(self, random: Random) -> Undo:
        seconds = random.uniform(0.2, 2.0)
        undo = [way.delay(seconds) for way in self.ways.values()]

        def end() -> Effect:
            effects = [one() for one in undo]
            return Effect(
                sum(effect.count for effect in effects), f"pieces of data passed on {seconds:.1f} s later"
            )

        return end


def start_rabbitmq(
    stack: ExitStack, folder: Path, platform: str, product: Path | None = None
) -> RabbitMQWorld:
    """Start broker and programs, and wait until they serve; they end with the stack.

    Args:
        product: the tree whose programs run; `None`: this one.
    """
    sandboxes = start_sandboxes(stack, platform, folder, "127.0.0.1")
    broker = Broker(folder / "rabbitmq")
    stack.callback(broker.close)
    broker.start()
    port, *others = free_ports(4)
    ways: dict[str, TcpProxy] = {}
    programs: dict[str, Program] = {}
    modes = {"receiver": ["webhook"], "poller": ["producer", "--loop"]}
    modes |= {name: ["consumer"] for name in CONSUMERS}
    for name, http_port in zip(modes, [port, *others], strict=True):
        ways[name] = TcpProxy((broker.host, broker.port))
        config = folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(_config(sandboxes, ways[name].port, port, http_port)))
        command = [
            sys.executable,
            str((product or ROOT) / "main.py"),
            "--config",
            str(config),
            "--mode",
            *modes[name],
        ]
        programs[name] = Program(name, command, folder, _environment(sandboxes, folder, product))
    world = RabbitMQWorld(sandboxes, broker, programs, ways, folder, port)
    stack.callback(world.close)
    for program in programs.values():
        program.start()
    sandboxes.hook(f"http://127.0.0.1:{port}")
    world.whole()
    return world


def _environment(sandboxes: Sandboxes, folder: Path, product: Path | None) -> dict[str, str]:
    # The packages of this tree are installed; those of another one come before them.
    packages = [] if product is None else sorted(str(source) for source in product.glob("*/src"))
    return {
        "PYTHONPATH": os.pathsep.join(packages),
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        f"{sandboxes.platform.upper()}_PERSONAL_ACCESS_TOKEN": sandboxes.bot_token,
        "OPENAI_API_KEY": MODEL_KEY,
    }


def _config(sandboxes: Sandboxes, broker_port: int, port: int, http_port: int) -> dict[str, Any]:
    platform = sandboxes.platform
    section: dict[str, Any] = {"api_url": sandboxes.forge.api_url}
    if platform == "github":
        redelivery = {
            "webhook_url": f"{sandboxes.deliveries.url}/webhook/github",
            "repositories": list(REPOSITORIES),
        }
        section |= {"owner": "acme", "redelivery": redelivery}
    elif platform == "gitea":
        section |= {"owner": "acme", "account": BOT_LOGIN}
    secret = "token" if platform == "gitlab" else "secret"
    return {
        "task_source": platform,
        platform: section,
        "webhook": {
            "server": {"host": "127.0.0.1", "port": port},
            "commands": {"enabled": True},
            platform: {secret: SECRET},
        },
        "llm": {"openai": {"base_url": sandboxes.model_url, "model": "scripted"}},
        "use_rabbitmq": True,
        "rabbitmq": {"host": "127.0.0.1", "port": broker_port, "queue": "chaos", "heartbeat": 10},
        "scheduling": {"interval": _POLL_SECONDS},
        "consumer": {
            "concurrency": 2,
            "workspace": {"isolation": "none"},
        },
        "development": {
            "cancel_check_interval": 1,
            "retry_delay": 2,
            "retry_delay_max": 10,
            "http_host": "127.0.0.1",
            "http_port": http_port,
        },
    }
