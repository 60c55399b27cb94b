"""The demo's small world: a sandbox forge, a scripted model and the coding agent, each its own process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import yaml
from coding_agent_core.registry import FACTS, Platform

ROOT = Path(__file__).resolve().parents[4]
_CACHE = os.environ.get("CODING_AGENT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
CACHE_ROOT = Path(_CACHE).expanduser().absolute() / "coding-agent"
"""The same folder as for dev/cluster."""
REPOSITORY = "acme/pricing"
LABEL = "coding agent"
PERSON_TOKEN = "alice-sandbox-token"
CHECKS = {"tests": "python3 -m unittest", "examples": "python3 -m doctest README.md"}
"""What CI runs on each new head of a change."""
ROUNDS = {"enabled": True, "interval": 2, "review_quiet": 2, "checks_quiet": 1}
"""Settings of rounds. The times, in seconds, are shorter than their defaults, so that nobody has to wait."""
_START_SECONDS = 120.0
_PROVIDERS = {"claude-code": "anthropic", "gemini": "google"}
"""Whose format a CLI coding agent speaks, if not OpenAI's."""


class DemoError(Exception):
    """The demo cannot go on; the sentence says why and where to look."""


@dataclass(frozen=True)
class Runner:
    """A CLI coding agent.

    Attributes:
        folder: with its program.
        root: of all its files.
    """

    name: str
    folder: Path
    root: Path


@dataclass(frozen=True)
class World:
    """What runs, and where.

    Attributes:
        forge_url: web address of the forge.
        logs: folder with one log for each process.
    """

    forge: str
    forge_url: str
    model_url: str
    receiver_url: str
    folder: Path

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.folder / "logs"

    @property
    def api_url(self) -> str:
        """The forge's REST API."""
        prefix: str = import_module(f"coding_agent_forge.{self.forge}.flavour").PREFIX
        return self.forge_url + prefix


@contextlib.contextmanager
def running_world(
    forge: str, folder: Path, runner: Runner | None = None, *, rounds: bool = False
) -> Iterator[World]:
    """Start everything, and end it with the block.

    Args:
        runner: works instead of the built-in agent.
        rounds: whether the repository has checks, and the agent works on its changes after it opened them.
        forge: a platform.
        folder: for logs, repositories and the configuration; must exist.

    Raises:
        DemoError: something does not come up.
    """
    forge_port, model_port, receiver_port = free_ports(3)
    world = World(
        forge=forge,
        forge_url=f"http://127.0.0.1:{forge_port}",
        model_url=f"http://127.0.0.1:{model_port}",
        receiver_url=f"http://127.0.0.1:{receiver_port}",
        folder=folder,
    )
    world.logs.mkdir()
    seed, config = folder / "seed.yaml", folder / "config.yaml"
    settings = _config(world, receiver_port, runner) | ({"rounds": ROUNDS} if rounds else {})
    seed.write_text(yaml.safe_dump(_seed(world, CHECKS if rounds else {})), encoding="utf-8")
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    python = [sys.executable, "-u"]
    scripts = ROOT / "dev" / "model" / "scripts" / ("shell" if runner else "")
    path = f"{runner.folder}:" if runner else ""
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            process(
                world,
                "forge",
                [
                    *python,
                    *("-m", "coding_agent_forge", "--flavour", forge, "--port", str(forge_port)),
                    *("--data", str(folder / "repositories"), "--seed", str(seed)),
                ],
                world.forge_url,
            )
        )
        stack.enter_context(
            process(
                world,
                "model",
                [
                    *python,
                    *("-m", "coding_agent_model", "--port", str(model_port)),
                    *("--scripts", str(scripts), "--api-key", "sandbox-key"),
                ],
                f"{world.model_url}/_sandbox/usage",
            )
        )
        stack.enter_context(
            process(
                world,
                "agent",
                [*python, str(ROOT / "main.py"), "--config", str(config), "--mode", "webhook"],
                f"{world.receiver_url}/readyz",
                path,
            )
        )
        yield world


def _seed(world: World, checks: dict[str, str]) -> dict[str, object]:
    samples = ROOT / "dev" / "forge" / "samples"
    return {
        "users": [
            {"login": "alice", "token": PERSON_TOKEN, "admin": True},
            {"login": "coding-agent-bot", "token": "bot-sandbox-token", "bot": True},
        ],
        "repositories": [
            {
                "owner": "acme",
                "name": "pricing",
                "files": str(samples / "pricing"),
                "roles": {"coding-agent-bot": "write"},
                "ci": checks,
                "labels": [{"name": LABEL, "color": "1f6feb"}, {"name": "bug", "color": "d73a4a"}],
                "issues": [
                    {"file": str(samples / "pricing.issue.md"), "author": "alice", "labels": ["bug"]},
                    {"file": str(samples / "price-steps.issue.md"), "author": "alice"},
                ],
            }
        ],
        "hooks": [
            {
                "repository": REPOSITORY,
                "url": f"{world.receiver_url}/webhook/{world.forge}",
                "secret": "sandbox-secret",
            }
        ],
    }


def _config(world: World, port: int, runner: Runner | None) -> dict[str, object]:
    provider = _PROVIDERS.get(runner.name, "openai") if runner else "openai"
    service = {
        "base_url": world.model_url + ("/v1" if provider == "openai" else ""),
        "api_key": "sandbox-key",
        "model": "scripted",
    }
    workspace = {"readable": [str(runner.root)]} if runner else {}
    return {
        "task_source": world.forge,
        world.forge: {"api_url": world.api_url, "personal_access_token": "bot-sandbox-token"},
        "webhook": {
            "server": {"host": "127.0.0.1", "port": port},
            world.forge: {FACTS[Platform(world.forge)].webhook_setting: "sandbox-secret"},
            "commands": {"enabled": True},
        },
        "llm": {"provider": provider, provider: service},
        "context_storage": {"base_dir": "contexts"},
        "consumer": {
            "cancel_check_interval": 2,
            "runner": runner.name if runner else "builtin",
            "workspace": workspace,
        },
    }


@contextlib.contextmanager
def process(
    world: World,
    name: str,
    command: list[str],
    url: str,
    path: str = "",
    variables: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a program until the block ends, and wait until it answers at `url`.

    Args:
        path: folders that come first in its PATH, with a colon at the end.
        variables: of its environment, which has nothing else of the person's own.

    Raises:
        DemoError: it does not come up.
    """
    log = world.logs / f"{name}.log"
    # Nothing of the person's own environment may change what the demo does.
    environment = {
        "PATH": path + os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(world.folder),
        **(variables or {}),
    }
    with log.open("wb") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=world.folder, env=environment
        )
    try:
        _wait_for(running, name, log, url)
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_for(process: subprocess.Popen[bytes], name: str, log: Path, url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise DemoError(f"The {name} ended at once: {_tail(log)}")
        with contextlib.suppress(URLError, OSError), urlopen(url, timeout=10):
            return
        if time.monotonic() > deadline:
            raise DemoError(f"The {name} did not start within {_START_SECONDS:.0f} s: {_tail(log)}")
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "it wrote nothing"


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago, below those that Linux gives to connections (32768 and up, ip(7)).

    Each byte of a file stands for a port, as in dev/cluster, so that no program that locks it draws the same
    one. The file stays open: the kernel drops the locks when this process ends.
    """
    CACHE_ROOT.mkdir(parents=True, exist_ok=True)
    reservations = os.open(CACHE_ROOT / "ports", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1_000):
        with contextlib.suppress(OSError):
            fcntl.lockf(reservations, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            socket.create_server(("127.0.0.1", port)).close()
            ports.append(port)
        if len(ports) == count:
            return ports
    raise DemoError("No free port was found on 127.0.0.1.")
