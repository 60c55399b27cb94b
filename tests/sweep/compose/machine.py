"""Runs the services of docker-compose.yml without Docker: their own commands, variables and files.

What containers would give is put in its place: names of hosts become loopback addresses, mounts paths of
this machine. Isolation (read-only file systems, users, networks) is not tested here; that of the images is
by tests/e2e/test_images.py.
"""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coding_agent_testbed.until import until

from tests.sweep.compose.name_server import name_server
from tests.sweep.compose.project import ROOT, Project

WEBHOOK_ADDRESSES = ("127.0.0.2", "127.0.0.3")
"""Two replicas with a port in common, as containers have."""


_START_SECONDS = 180
"""On a machine with much to do, a program can take minutes to start."""
_PORTS = itertools.count(random.randrange(100))


def free_port(hosts: tuple[str, ...] = ("127.0.0.1",)) -> int:
    """A port that was free on all of these addresses a moment ago; none twice in a row.

    From below those that the kernel hands out to anybody who asks for any port (32768 and up), above those
    that the local cluster and the broker draw from, and of them a part that only this process of the test run
    uses.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in itertools.islice(_PORTS, 100):
        port = 32_000 + worker % 7 * 100 + number % 100
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for host in hosts:
                stack.enter_context(socket.create_server((host, port)))
            return port
    raise RuntimeError(f"100 ports are in use on {', '.join(hosts)}")


@dataclass
class Running:
    """A service's process and its log."""

    service: str
    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """What it has said."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has."""
        until(
            lambda: f"{self.service} says {text!r}; it said: {self.text()[-2000:]}",
            lambda: text in self.text() or self.process.poll() is not None,
            timeout=_START_SECONDS,
        )
        assert text in self.text(), self.text()[-3000:]

    def stop(self) -> int:
        """As `docker compose stop` does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@dataclass
class Machine:
    """One machine with the project on it.

    Attributes:
        hosts: environment variables in place of those that name a service or a port.
    """

    project: Project
    folder: Path
    hosts: dict[str, str] = field(default_factory=dict)
    webhook_port: int = field(default_factory=lambda: free_port(WEBHOOK_ADDRESSES))
    running: list[Running] = field(default_factory=list)

    def local(self, service: str, path: str) -> str:
        """A path of the container on this machine.

        Raises:
            KeyError: nothing is mounted there, and it is not a temporary folder.
        """
        places = dict(self.project.mounts(service))
        for entry in ("/tmp", "/dev/shm", "/data", "/config"):
            places.setdefault(entry, f"{service}{entry.replace('/', '-')}")
        target = next(
            target for target in sorted(places, reverse=True) if f"{path}/".startswith(f"{target}/")
        )
        place = Path(places[target])
        if not place.is_absolute():
            place = self.folder / "volumes" / place
            place.mkdir(parents=True, exist_ok=True)
        return str(place) + path.removeprefix(target)

    def start(self, service: str, *more: str, under: Sequence[str] = (), **variables: str) -> Running:
        """Start a program's service, with further arguments; further variables win.

        Args:
            under: a command that starts another one.
        """
        arguments = [*(self._word(service, word) for word in self.project.arguments(service)), *more]
        environment = self.project.environment(service)
        for name, value in environment.items():
            if value.startswith("/"):
                environment[name] = self.local(service, value)
        places = self._places(service)
        return self.spawn(service, [*under, *arguments], {**environment, **places, **self.hosts, **variables})

    def start_webhook_server(self, address: str) -> Running:
        """One of the replicas; returns when it takes requests."""
        where = {"WEBHOOK_SERVER_HOST": address, "WEBHOOK_SERVER_PORT": str(self.webhook_port)}
        server = self.start("webhook-server", **where)
        server.says(f"Webhook server listening on {address}:{self.webhook_port}")
        return server

    def spawn(self, service: str, arguments: list[str], environment: dict[str, str]) -> Running:
        """Start a process of a service with exactly this environment."""
        log = self.folder / f"{service}-{len(self.running)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", **environment},
                start_new_session=True,
            )
        running = Running(service, process, log)
        self.running.append(running)
        return running

    def close(self) -> None:
        """End everything."""
        for entry in self.running:
            if entry.process.poll() is None:
                entry.process.terminate()
        for entry in self.running:
            try:
                entry.process.wait(60)
            except subprocess.TimeoutExpired:
                entry.kill()

    def _word(self, service: str, word: str) -> str:
        if word == "python":
            return sys.executable
        if word == "main.py":
            return str(ROOT / word)
        return self.local(service, word) if word.startswith("/") else word

    def _places(self, service: str) -> dict[str, str]:
        """What dev/compose/config.yaml asks variables for, where a container has a mount."""
        mounts = self.project.mounts(service)
        asked = {"STATE_DIRECTORY": "/var/lib/coding-agent", "WORKSPACE_GATE": "/run/coding-agent"}
        return {name: self.local(service, path) for name, path in asked.items() if path in mounts}


@contextlib.contextmanager
def running_caddy(machine: Machine, program: Path, **variables: str) -> Iterator[Running]:
    """Caddy with the project's own file, in front of the webhook servers; variables as in `.env`."""
    with name_server("webhook-server", WEBHOOK_ADDRESSES) as resolver:
        mounted = machine.project.mounts("caddy")["/etc/caddy/Caddyfile"]
        environment = {
            **machine.project.environment("caddy"),
            "XDG_DATA_HOME": machine.local("caddy", "/data"),
            "XDG_CONFIG_HOME": machine.local("caddy", "/config"),
            "WEBHOOK_PORT": str(machine.webhook_port),
            "CADDY_RESOLVER": f"127.0.0.1:{resolver}",
            **variables,
        }
        # As the image starts it.
        arguments = [str(program), "run", "--config", mounted, "--adapter", "caddyfile"]
        caddy = machine.spawn("caddy", arguments, environment)
        caddy.says("serving initial configuration")
        yield caddy
