"""The networks of docker-compose.yml, made by the kernel alone: a namespace for each service.

A service reaches those with which it shares a network, by their names, and nothing else: no namespace has a
default route. The test's own machine takes the place of the broker and of the internet.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.sweep.compose.project import Project

INTERNET = "internet"
"""The network on which the machine is what Docker's is not: the only other machine."""
_FIRST = f"10.{150 + os.getpid() % 80}"
"""Other test runs use the same machine."""


@dataclass
class Networks:
    """Use as a context manager.

    Attributes:
        services: those that get a namespace.
        names: further names and addresses, for the proxy's `/etc/hosts`.
    """

    project: Project
    services: Sequence[str]
    names: dict[str, str] = field(default_factory=dict)
    _mark: str = field(default_factory=lambda: f"c{os.getpid() % 100_000}")

    def address(self, service: str, network: str) -> str:
        """Of a service on a network."""
        return f"{_FIRST}.{self._number(network)}.{10 + list(self.services).index(service)}"

    def machine(self, network: str) -> str:
        """The machine's own address on a network."""
        return f"{_FIRST}.{self._number(network)}.1"

    def command(self, service: str) -> list[str]:
        """What starts a program on the networks of a service."""
        return ["ip", "netns", "exec", self._space(service)]

    def __enter__(self) -> Networks:
        try:
            for network in self.project.data["networks"]:
                _ip("link", "add", self._bridge(network), "type", "bridge")
                _ip("link", "set", self._bridge(network), "up")
            for network in ("queue", INTERNET):
                _ip("address", "add", f"{self.machine(network)}/24", "dev", self._bridge(network))
            for service in self.services:
                self._join(service)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for service in self.services:
            for outer, *_rest in self._cables(service):
                # By itself it goes with the namespace, which the kernel removes at its own time; the next
                # test of this process wants the name.
                with contextlib.suppress(subprocess.CalledProcessError):
                    _ip("link", "delete", outer)
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", self._space(service))
            shutil.rmtree(self._etc(service), ignore_errors=True)
        for network in self.project.data["networks"]:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "delete", self._bridge(network))

    def _join(self, service: str) -> None:
        space = self._space(service)
        _ip("netns", "add", space)
        _ip("-n", space, "link", "set", "lo", "up")
        for outer, inner, network in self._cables(service):
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            _ip("link", "set", outer, "master", self._bridge(network), "up")
            _ip("-n", space, "address", "add", f"{self.address(service, network)}/24", "dev", inner)
            _ip("-n", space, "link", "set", inner, "up")
        # `ip netns exec` puts it over /etc/hosts.
        self._etc(service).mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._known(service))]
        (self._etc(service) / "hosts").write_text("\n".join([*lines, ""]))

    def _cables(self, service: str) -> Iterator[tuple[str, str, str]]:
        """Of each network of a service the ends outside and inside of its namespace, and the network."""
        number = list(self.services).index(service)
        for count, network in enumerate(self.project.services[service]["networks"]):
            yield f"{self._mark}v{number}{count}", f"eth{count}", network

    def _known(self, service: str) -> Iterator[tuple[str, str]]:
        """What Docker's name server answers to a service."""
        mine = self.project.services[service]["networks"]
        for other, network in itertools.product(self.services, mine):
            theirs = self.project.services[other]["networks"]
            if network in theirs:
                for name in (other, *((theirs[network] or {}).get("aliases") or [])):
                    yield name, self.address(other, network)
        if "queue" in mine:
            yield "rabbitmq", self.machine("queue")
        if INTERNET in mine:
            yield from self.names.items()

    def _number(self, network: str) -> int:
        return list(self.project.data["networks"]).index(network)

    def _bridge(self, network: str) -> str:
        return f"{self._mark}b{self._number(network)}"

    def _space(self, service: str) -> str:
        return f"{self._mark}-{service}"

    def _etc(self, service: str) -> Path:
        return Path("/etc/netns", self._space(service))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
