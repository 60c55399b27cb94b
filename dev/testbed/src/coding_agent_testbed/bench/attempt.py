"""What an attempt costs: the CPU time of its pod's programs, against the import of its agent's library."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE, AttemptInput, Outcome
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger
from coding_agent_core.task.queued_task import QueuedTask

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.program import ROOT, children_cpu_seconds, cpu_seconds
from coding_agent_testbed.bench.result import Measure, Result, median_case
from coding_agent_testbed.bench.world import World
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import load_scripts
from coding_agent_testbed.model.server import ModelServer

_SAMPLES = ROOT / "dev" / "testbed" / "samples"
_REPOSITORY = "acme/pricing"
_TOKEN, _KEY, _PERSON = "bot-token", "model-key", "alice"
_SECONDS = 240
"""How long an attempt, or an import, may take on a machine that does other things too."""
_MEASURES = (Measure("cpu_s", "CPU (s)", 2),)
_IMPORTS = {
    "importing Pydantic AI": "import pydantic_ai, pydantic_ai.models.openai",
    "importing all but the agent": "import coding_agent_core.settings.load, coding_agent_consumer.modes",
}
"""The first is the base: work of the same kind, which every attempt has to do."""


@dataclass(frozen=True)
class _Used:
    """Seconds of CPU of a program that has ended: its own, and those of the programs that it waited for."""

    own: float
    children: float


async def run(world: World) -> Result:
    """Measure; imports and attempts take turns."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for number in range(world.size(5, 1)):
        folder = world.folder / f"attempt-{number}"
        folder.mkdir()
        for name, seconds in (await asyncio.to_thread(_round, folder)).items():
            found.setdefault(name, []).append({"cpu_s": seconds})
    return Result(_MEASURES, tuple(median_case(name, rounds) for name, rounds in found.items()))


def _round(folder: Path) -> dict[str, float]:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
    environment |= {"HOME": str(folder), "TMPDIR": str(folder)}
    found = {
        name: _ended(_start(["-c", statement], environment, folder / "import.log")).own
        for name, statement in _IMPORTS.items()
    }
    agent, workspace = _attempt(folder, environment)
    return found | {
        "the agent": agent.own,
        "its git": agent.children,
        "the workspace": workspace.own,
        "the model's commands": workspace.children,
        "the whole attempt": agent.own + agent.children + workspace.own + workspace.children,
    }


def _attempt(folder: Path, environment: Mapping[str, str]) -> tuple[_Used, _Used]:
    """Run an attempt as its pod does, with two programs; return what the agent and the workspace used.

    Raises:
        BenchError: it did not complete.
    """
    report, config, socket, root = (folder / name for name in ("report", "config.yaml", "socket", "root"))
    report.touch()
    root.mkdir()
    with ExitStack() as stack:
        forge = stack.enter_context(ForgeServer("github", _sandbox(), folder / "repositories"))
        model = stack.enter_context(ModelServer(load_scripts(ROOT / "dev/testbed/scripts"), api_key=_KEY))
        forge.add_label(_REPOSITORY, 1, Labels().bot_label, kind=Kind.ISSUE, by=_PERSON)
        settings = {
            "github": {"api_url": forge.api_url, "personal_access_token": _TOKEN},
            "llm": {"openai": {"base_url": model.base_url, "api_key": _KEY, "model": "scripted"}},
            "consumer": {"workspace": {"socket": str(socket)}},
        }
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        arguments = ["--socket", str(socket), "--root", str(root), "--inherit-env"]
        program = ["-m", "coding_agent_consumer.workspace", *arguments]
        workspace = _start(program, environment, folder / "workspace.log")
        try:
            given = {
                ENVIRONMENT_VARIABLE: _given(forge.base_url.removeprefix("http://")).to_json(),
                "WORKSPACE_SOCKET": str(socket),
                "TERMINATION_LOG": str(report),
            }
            command = [str(ROOT / "main.py"), "--config", str(config), "--mode", "attempt"]
            used = _ended(_start(command, {**environment, **given}, folder / "agent.log"))
        finally:
            workspace.send_signal(signal.SIGTERM)
            beside = _ended(workspace)
    outcome = Outcome.from_termination_message(report.read_text(encoding="utf-8"))
    if outcome is None or not outcome.succeeded:
        log = (folder / "agent.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BenchError(f"the attempt did not complete: {outcome}; its log: {log}")
    return used, beside


def _start(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *arguments], env=environment, cwd=log.parent, stdout=output, stderr=output
        )


def _ended(process: subprocess.Popen[bytes]) -> _Used:
    """Wait until a program has ended, and return what it used: `/proc` has the figures until it is reaped.

    Raises:
        BenchError: it does not end in time.
    """
    watched = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([watched], [], [], _SECONDS)
    finally:
        os.close(watched)
    if not ready:
        process.kill()
        process.wait()
        raise BenchError(f"{process.args!r} took more than {_SECONDS} s")
    used = _Used(cpu_seconds(process.pid), children_cpu_seconds(process.pid))
    process.wait()
    return used


def _given(host: str) -> AttemptInput:
    item = Item(platform=Platform.GITHUB, host=host, repository=_REPOSITORY, kind=ItemKind.ISSUE, number=1)
    trigger = Trigger(origin=Origin.WEBHOOK, received_at=datetime.now(UTC))
    request = TaskRequest(item=item, user=_PERSON, trigger=trigger)
    task = QueuedTask(request=request, uuid="benchmark", run=1, attempt=1)
    return AttemptInput(task=task, max_attempts=1, timeout_seconds=_SECONDS)


def _sandbox() -> dict[str, object]:
    """The demo's repository, whose issue the scripted model fixes with a change of one line."""
    repository = {
        "owner": "acme",
        "name": "pricing",
        "files": str(_SAMPLES / "pricing"),
        "roles": {"bot": "write"},
        "issues": [{"file": str(_SAMPLES / "pricing.issue.md"), "author": _PERSON}],
    }
    users = [{"login": _PERSON, "token": "person", "admin": True}, {"login": "bot", "token": _TOKEN}]
    return {"users": users, "repositories": [repository]}


BENCHMARK = Benchmark(
    name="attempt",
    title="One attempt with a small change and a scripted model: the CPU time of its pod's programs",
    needs=frozenset(),
    limit=1800.0,
    run=run,
)
