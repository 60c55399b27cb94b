"""The demo's small world: a forge, a scripted model and the coding agent, each its own process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import yaml
from coding_agent_core.platforms.registry import FACTS, Platform
from rich.console import Console

from coding_agent_demo.forges import HOOK_SECRET, ISSUES, LOCAL_ISSUE, ROOT, DemoForge
from coding_agent_demo.processes import LOGS, free_ports, process
from coding_agent_demo.sandbox import running_sandbox

CHECKS = {"tests": "python3 -m unittest", "examples": "python3 -m doctest README.md"}
"""What CI runs on each new head of a change."""
ROUNDS = {"enabled": True, "interval": 2, "review_quiet": 2, "checks_quiet": 1}
"""Settings of rounds. The times, in seconds, are shorter than their defaults, so that nobody has to wait."""
_PRICES = {"smollm2": {"input": 0, "output": 0}}
_PROVIDERS = {"claude-code": "anthropic", "gemini": "google"}
"""Whose format a CLI coding agent speaks, if not OpenAI's."""


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
        folder: holds logs, transcripts and the configuration.
        local_model: whether a small real model answers instead of the scripted one.
    """

    forge: DemoForge
    model_url: str
    receiver_url: str
    folder: Path
    local_model: bool = False

    @property
    def logs(self) -> Path:
        """The folder with one log for each process."""
        return self.folder / LOGS


@contextlib.contextmanager
def running_world(
    console: Console,
    platform: Platform,
    folder: Path,
    runner: Runner | None = None,
    *,
    rounds: bool = False,
    local_model: bool = False,
) -> Iterator[World]:
    """Start everything, and end it with the block.

    Args:
        console: says it if the forge has to be built.
        platform: whose forge it is.
        folder: for logs, repositories and the configuration; must exist.
        runner: works instead of the built-in agent.
        rounds: whether the repository has checks, and the agent works on its changes after it opened them.
        local_model: whether a small real model answers, and issue 1 is a trivial one.

    Raises:
        DemoError: something does not come up.
    """
    model_port, receiver_port = free_ports(2)
    receiver_url = f"http://127.0.0.1:{receiver_port}"
    hook = f"{receiver_url}/webhook/{platform}"
    scripts = ROOT / "dev" / "testbed" / "scripts" / ("shell" if runner else "")
    python = [sys.executable, "-u"]
    with contextlib.ExitStack() as stack:
        issues = (LOCAL_ISSUE, ISSUES[1]) if local_model else ISSUES
        forge = stack.enter_context(_forge(console, platform, folder, hook, CHECKS if rounds else {}, issues))
        world = World(forge, f"http://127.0.0.1:{model_port}", receiver_url, folder, local_model)
        settings = _config(world, receiver_port, runner) | ({"rounds": ROUNDS} if rounds else {})
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        if local_model:
            model, health = ["coding_agent_testbed.local_model"], "/health"
        else:
            model, health = ["coding_agent_testbed.model", "--scripts", str(scripts)], "/_sandbox/usage"
        command = [*python, "-m", *model, "--port", str(model_port), "--api-key", "sandbox-key"]
        stack.enter_context(process(folder, "model", command, world.model_url + health))
        command = [*python, str(ROOT / "main.py"), "--config", str(config), "--mode", "webhook"]
        path = f"{runner.folder}:" if runner else ""
        stack.enter_context(process(folder, "agent", command, f"{receiver_url}/readyz", path))
        yield world


def _forge(
    console: Console,
    platform: Platform,
    folder: Path,
    hook: str,
    checks: Mapping[str, str],
    issues: tuple[Path, Path],
) -> AbstractContextManager[DemoForge]:
    if platform is Platform.GITEA:
        # Imported here, because only this forge needs what the extra `gitea` names.
        gitea: AbstractContextManager[DemoForge] = import_module("coding_agent_demo.gitea").running_gitea(
            console, folder, hook, checks
        )
        return gitea
    return running_sandbox(platform, folder, hook, checks, issues)


def _config(world: World, port: int, runner: Runner | None) -> dict[str, object]:
    provider = _PROVIDERS.get(runner.name, "openai") if runner else "openai"
    service: dict[str, object] = {
        "base_url": world.model_url + ("/v1" if provider == "openai" else ""),
        "api_key": "sandbox-key",
        "model": "scripted",
    }
    if world.local_model:
        service |= {"model": "smollm2", "max_token": 100}
    workspace = {"readable": [str(runner.root)]} if runner else {}
    forge, name = world.forge, str(world.forge.platform)
    return {
        "task_source": name,
        name: {"api_url": forge.api_url, "personal_access_token": forge.bot_token, **forge.bot_settings},
        "webhook": {
            "server": {"host": "127.0.0.1", "port": port},
            name: {FACTS[forge.platform].webhook_setting: HOOK_SECRET},
            "commands": {"enabled": True},
        },
        "llm": {"provider": provider, provider: service, "prices": _PRICES if world.local_model else {}},
        "context_storage": {"base_dir": "contexts"},
        "consumer": {
            "runner": runner.name if runner else "builtin",
            "workspace": workspace,
        },
        "development": {"cancel_check_interval": 2},
    }
