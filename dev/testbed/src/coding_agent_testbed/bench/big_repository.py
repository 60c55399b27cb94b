"""Attempts in a big repository: the time to the model and to the push, against a plain clone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.rounds.decide import open_work
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.job_settings import MIRROR_VARIABLE
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE, AttemptInput, EarlierAttempts, Outcome
from coding_agent_core.task.model import Cause, Item, Origin, RoundTrigger, TaskRequest, Trigger
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.round_report import trigger_of
from coding_agent_forges.connect import connect_forge

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.generated_repository import BRANCH, Size, generated, path_of
from coding_agent_testbed.bench.process_tree import disk_mib, memory_mib
from coding_agent_testbed.bench.program import ROOT
from coding_agent_testbed.bench.result import Measure, Result, median_case
from coding_agent_testbed.bench.world import World
from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import Call, Script, Turn
from coding_agent_testbed.model.server import ModelServer

_REPOSITORY = "acme/big"
_TOKEN, _KEY, _PERSON, _BOT = "bot-token", "model-key", "alice", "bot"
_FILE = path_of(0)
"""The file that the scripted model changes."""
_SECONDS = 600
"""How long a clone or an attempt may take on a machine that does other things too."""
_POLL = 0.01
_LOOK_EVERY = 0.2
"""Seconds between two looks at memory and disk: to look takes time of the machine, too."""
_TURNS = 3
"""Requests to the model in each attempt; after the last one the work is pushed."""
_ISSUES = 3
_MEASURES = (
    Measure("model_s", "to the model (s)", 1),
    Measure("push_s", "finish to push (s)", 1, of="model_s"),
    Measure("agent_mib", "agent: peak memory (MiB)", 0),
    Measure("workspace_mib", "workspace: peak memory (MiB)", 0, of="agent_mib"),
    Measure("agent_disk", "agent: disk (MiB)", 0),
    Measure("workspace_disk", "workspace: disk (MiB)", 0, of="agent_disk"),
    Measure("forge_mb", "from the forge (MB)", 1),
)
_Figures = dict[str, float]


async def run(world: World) -> Result:
    """Measure; in each round a clone and the attempts take turns."""
    size = Size(world.size(100_000, 2_000) * world.scale, world.size(5_000, 50) * world.scale)
    repository = await asyncio.to_thread(generated, size)
    found: dict[str, list[_Figures]] = {}
    for number in range(world.size(3, 1)):
        folder = world.folder / f"big-repository-{number}"
        folder.mkdir()
        for name, figures in (await asyncio.to_thread(_round, folder, repository)).items():
            found.setdefault(name, []).append(figures)
        await asyncio.to_thread(shutil.rmtree, folder)
    return Result(_MEASURES, tuple(median_case(name, rounds) for name, rounds in found.items()))


def _round(folder: Path, repository: Path) -> dict[str, _Figures]:
    with ExitStack() as stack:
        forge = stack.enter_context(ForgeServer("github", _sandbox(), folder / "repositories"))
        _adopt(forge, repository)
        model = stack.enter_context(ModelServer([_script("")], api_key=_KEY))
        place = _Place(folder, forge, model)
        found = {"a plain git clone": place.plain_clone()}
        found["first attempt, no cache"] = place.attempt(place.issue(1))
        found["first attempt, fills the cache"] = place.attempt(place.issue(2), cached=True)
        found["first attempt, with the cache"] = place.attempt(place.issue(3), cached=True)
        again = EarlierAttempts(branch="coding-agent/issue-3")
        found["a further attempt, with the cache"] = place.attempt(place.issue(3, again), cached=True)
        found["a round, with the cache"] = place.attempt(place.review("coding-agent/issue-3"), cached=True)
    return found


@dataclass
class _Place:
    """A forge with the repository, a model, and the programs of one attempt at a time.

    Attributes:
        folder: for all files; those of an attempt are removed after it.
    """

    folder: Path
    forge: ForgeServer
    model: ModelServer
    _runs: int = field(default=0, init=False)

    def plain_clone(self) -> _Figures:
        """Clone as a person does, with the history and all files."""
        before, target = self._served(), self.folder / "plain"
        address = f"http://{_BOT}:{_TOKEN}@{self.forge.base_url.removeprefix('http://')}/{_REPOSITORY}.git"
        began = time.monotonic()
        clone = subprocess.Popen(
            ["git", "clone", "--quiet", address, str(target)],
            env=git.environment(),
            stderr=subprocess.DEVNULL,
        )
        memory = looked = 0.0
        for now in _until(lambda: clone.poll() is not None, "the clone ends"):
            if now - looked > _LOOK_EVERY:
                memory = max(memory, memory_mib(clone.pid))
                looked = time.monotonic()
        seconds = time.monotonic() - began
        if clone.returncode != 0:
            raise BenchError(f"git clone ended with exit code {clone.returncode}")
        figures = {"model_s": seconds, "agent_mib": memory, "agent_disk": disk_mib(target)}
        shutil.rmtree(target)
        return figures | {"forge_mb": (self._served() - before) / 1e6}

    def issue(self, number: int, earlier: EarlierAttempts = EarlierAttempts()) -> AttemptInput:  # noqa: B008 - frozen
        """Return the input of an attempt at an issue, which a person labels now."""
        again = earlier.branch is not None
        if not again:
            self.forge.add_label(_REPOSITORY, number, Labels().bot_label, kind=Kind.ISSUE, by=_PERSON)
        trigger = Trigger(origin=Origin.WEBHOOK, received_at=datetime.now(UTC))
        request = TaskRequest(item=self._item(ItemKind.ISSUE, number), user=_PERSON, trigger=trigger)
        self._plays("")
        return self._given(request, attempt=2 if again else 1, earlier=earlier)

    def review(self, branch: str) -> AttemptInput:
        """Return the input of a round, for a remark that a person writes now on the change of a branch."""
        [change] = [one for one in self.forge.changes(_REPOSITORY) if one.head == branch]
        thread = self.forge.start_thread(
            _REPOSITORY, change.number, "Say it in German.", path=_FILE, line=1, by=_PERSON
        )
        item = self._item(ItemKind.CHANGE, change.number)
        settings = self._settings(self.folder / "nowhere")
        cause, trigger = asyncio.run(_due(settings, item))
        self._plays(f"[t{thread.comments[0].id}] done: It is German now.")
        origin = Trigger(origin=Origin.POLL, cause=cause, received_at=datetime.now(UTC), round=trigger)
        return self._given(TaskRequest(item=item, trigger=origin), run=2)

    def attempt(self, given: AttemptInput, *, cached: bool = False) -> _Figures:
        """Run an attempt as its pod does, with two programs, and return what it took.

        Raises:
            BenchError: it did not complete.
        """
        self._runs += 1
        folder, before = self.folder / f"attempt-{self._runs}", self._served()
        report, socket, root, temporary = (folder / name for name in ("report", "socket", "root", "tmp"))
        for made in (folder, root, temporary):
            made.mkdir()
        report.touch()
        mirror = self.folder / "mirror"
        mirror.mkdir(exist_ok=True)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(self._settings(socket)), encoding="utf-8")
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
        environment |= {"HOME": str(temporary), "TMPDIR": str(temporary)}
        arguments = ["--socket", str(socket), "--root", str(root), "--inherit-env"]
        program = ["-m", "coding_agent_consumer.workspace", *arguments]
        agent_environment = environment | {
            ENVIRONMENT_VARIABLE: given.to_json(),
            "WORKSPACE_SOCKET": str(socket),
            "TERMINATION_LOG": str(report),
            **({MIRROR_VARIABLE: str(mirror)} if cached else {}),
        }
        command = [str(ROOT / "main.py"), "--config", str(config), "--mode", "attempt"]
        with (
            _running(program, environment, folder / "workspace.log") as workspace,
            _running(command, agent_environment, folder / "agent.log") as agent,
        ):
            figures = self._watched(agent, workspace, temporary, root)
        outcome = Outcome.from_termination_message(report.read_text(encoding="utf-8"))
        if outcome is None or not outcome.succeeded or figures["push_s"] < 0:
            log = (folder / "agent.log").read_text(encoding="utf-8", errors="replace")[-2000:]
            raise BenchError(f"the attempt did not complete: {outcome}; its log: {log}")
        shutil.rmtree(folder, ignore_errors=True)
        return figures | {"forge_mb": (self._served() - before) / 1e6}

    def _watched(
        self,
        agent: subprocess.Popen[bytes],
        workspace: subprocess.Popen[bytes],
        temporary: Path,
        root: Path,
    ) -> _Figures:
        """Wait until the agent ends; return when it did what, and the most that both programs had."""
        began, asked = time.monotonic(), len(self.model.requests)
        before = self._pushed()
        times, figures = _Times(), {"agent_mib": 0.0, "workspace_mib": 0.0, "agent_disk": 0.0}
        beside = looked = 0.0
        without = "tree"
        for now in _until(lambda: agent.poll() is not None, "the attempt ends"):
            requests = len(self.model.requests) - asked
            times.first = times.first or (now if requests else 0.0)
            times.last = times.last or (now if requests == _TURNS else 0.0)
            times.pushed = times.pushed or (now if times.last and self._pushed() != before else 0.0)
            if now - looked > _LOOK_EVERY:
                for key, process in (("agent_mib", agent), ("workspace_mib", workspace)):
                    figures[key] = max(figures[key], memory_mib(process.pid))
                figures["agent_disk"] = max(figures["agent_disk"], disk_mib(temporary))
                beside = max(beside, disk_mib(root, without=without))
                looked = time.monotonic()
        # The tree's own repository shares its objects with the one beside it.
        now_beside = disk_mib(root, without=without)
        figures["workspace_disk"] = disk_mib(root) + max(0.0, beside - now_beside)
        return figures | {"model_s": times.first - began, "push_s": times.pushed - times.last}

    def _pushed(self) -> dict[str, str]:
        """Return the commits of the agent's branches, which a push writes as files."""
        folder = self.forge.repository(_REPOSITORY).path / "refs" / "heads" / "coding-agent"
        return {file.name: file.read_text() for file in folder.glob("*") if file.suffix != ".lock"}

    def _served(self) -> int:
        return self.forge.run(lambda: self.forge.sandbox.git_bytes)

    def _plays(self, remark: str) -> None:
        self.model.app.state.play.scripts = [_script(remark, self._runs)]

    def _item(self, kind: ItemKind, number: int) -> Item:
        host = self.forge.base_url.removeprefix("http://")
        return Item(platform=Platform.GITHUB, host=host, repository=_REPOSITORY, kind=kind, number=number)

    def _given(
        self,
        request: TaskRequest,
        *,
        run: int = 1,
        attempt: int = 1,
        earlier: EarlierAttempts = EarlierAttempts(),  # noqa: B008 - frozen
    ) -> AttemptInput:
        task = QueuedTask(request=request, uuid=f"benchmark-{self._runs}", run=run, attempt=attempt)
        return AttemptInput(task=task, max_attempts=3, timeout_seconds=_SECONDS, earlier=earlier)

    def _settings(self, socket: Path) -> dict[str, object]:
        return {
            "github": {"api_url": self.forge.api_url, "personal_access_token": _TOKEN},
            "llm": {"openai": {"base_url": self.model.base_url, "api_key": _KEY, "model": "scripted"}},
            "rounds": {"enabled": True, "review_quiet": 0, "checks_quiet": 0},
            "consumer": {"workspace": {"socket": str(socket)}},
        }


@dataclass
class _Times:
    """When an attempt asked the model first and last, and pushed; 0: not yet."""

    first: float = 0.0
    last: float = 0.0
    pushed: float = 0.0


async def _due(data: Mapping[str, object], item: Item) -> tuple[Cause, RoundTrigger]:
    """Return the cause and the trigger of the round that is due on a change."""
    settings = Settings.model_validate(data)
    forge = connect_forge(settings, Platform.GITHUB)
    try:
        snapshot = await forge.snapshot(item)
    finally:
        await forge.aclose()
    policy = settings.rounds.policy(settings.labels(Platform.GITHUB))
    work = open_work(
        snapshot, RoundRecord(), policy, snapshot.read_at, may_write=lambda name: name == _PERSON
    )
    if not work.due:
        raise BenchError(f"no round is due: {work}")
    return trigger_of(work.due[0], datetime.now(UTC))


def _adopt(forge: ForgeServer, repository: Path) -> None:
    """Give the forge's repository the content of the generated one, without a copy of it."""
    path = forge.repository(_REPOSITORY).path
    (path / "objects" / "info" / "alternates").write_text(f"{repository / 'objects'}\n", encoding="utf-8")
    git.git(path, "update-ref", f"refs/heads/{BRANCH}", git.git(repository, "rev-parse", BRANCH).strip())


@contextmanager
def _running(
    arguments: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=dict(environment), cwd=log.parent, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(ended: Callable[[], bool], what: str) -> Iterator[float]:
    """Yield the time again and again, until something has ended.

    Raises:
        BenchError: it takes too long.
    """
    deadline = time.monotonic() + _SECONDS
    while not ended():
        now = time.monotonic()
        if now > deadline:
            raise BenchError(f"waited {_SECONDS} s in vain until {what}")
        yield now
        time.sleep(_POLL)


def _script(remark: str, number: int = 0) -> Script:
    """Return a script that reads a file, writes it, and finishes."""
    written = {"path": _FILE, "content": f"changed by attempt {number}\n"}
    finished = {"status": "done", "summary": remark or "I changed the file."}
    calls = (
        Call(tool="read_file", arguments={"path": _FILE}),
        Call(tool="write_file", arguments=written),
        Call(tool="finish", arguments=finished),
    )
    assert len(calls) == _TURNS
    return Script(turns=tuple(Turn(calls=(call,)) for call in calls))


def _sandbox() -> dict[str, object]:
    owner, _, name = _REPOSITORY.partition("/")
    issues = [
        {"title": f"Change a file, {number}", "body": "Please.", "author": _PERSON}
        for number in range(1, _ISSUES + 1)
    ]
    repository = {"owner": owner, "name": name, "roles": {_BOT: "write"}, "issues": issues}
    users = [{"login": _PERSON, "token": "person", "admin": True}, {"login": _BOT, "token": _TOKEN}]
    return {"users": users, "repositories": [repository]}


BENCHMARK = Benchmark(
    name="big-repository",
    title="Attempts in a repository of 100,000 files and 5,000 commits (100 MB packed), without a cluster",
    needs=frozenset(),
    limit=7200.0,
    run=run,
)
