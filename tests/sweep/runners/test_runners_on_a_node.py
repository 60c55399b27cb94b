"""The real programs in their images, behind the egress proxy: from label to change, and what can go wrong.

One release serves three repositories, each with another coding agent. All tasks run at the same time.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.cluster.access import KubectlError
from coding_agent_testbed.model.script import Call, Script, Turn
from coding_agent_testbed.until import until

from tests.chart.edge import Edge, forwarder
from tests.chart.place import DENY_ALL, Place, place
from tests.e2e.pods import processes
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT, MODEL_KEY, PROCESSING, SECRET, sample_repository

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

PROGRAMS = {"claude-code": "claude", "codex": "codex", "opencode": "opencode"}
"""The name of each one's process."""
HAPPY, KILLED, CANCELLED, DEAR = ("Make a file", "Be killed twice", "Be cancelled", "Spend too much")
"""Titles of the issues, by which the model knows what to do."""
ALLOWANCE, MUCH = 600_000, 350_000
"""Tokens of a task, and of one dear answer: two exceed it."""
WAIT = 600.0
SECOND_MODEL = "scripted-second"
"""Of the service that Claude Code asks."""
BLOCKED = "listed-nowhere.example.com"
WORDS = "I made the file, and it is there."
LOOK = f"{{ id -u; touch /usr/made; git ls-remote https://{BLOCKED}/a/b; }} > made.md 2>&1; cat made.md"
COUNT = "echo $(( $(cat count.md 2>/dev/null || echo 0) + 1 )) > count.md; cat count.md"
HANG = "echo begun > begun.md; sleep 600"


def runs(command: str, **more: Any) -> Turn:
    return Turn(calls=(Call(run=command),), **more)


LATER_STEPS = [runs("true", delay_ms=45_000)] * 3
SCRIPTS = [
    Script(match=HAPPY, turns=(runs(LOOK), Turn(text=WORDS))),
    # Each attempt counts on where the one before was killed, and hangs at the model: while a command hangs,
    # Codex asks again. The third one is told of the second. Work whose push failed goes with a later step.
    Script(match="Attempt 2 ended", turns=(runs(COUNT), Turn(text=WORDS))),
    Script(match=KILLED, turns=(runs(COUNT), *LATER_STEPS, Turn(text=WORDS, delay_ms=1_200_000))),
    Script(match=CANCELLED, turns=(runs(HANG),), loop=True),
    Script(
        match=DEAR,
        turns=(
            runs("echo begun > begun.md", prompt_tokens=MUCH),
            *(runs("true", prompt_tokens=MUCH) for _ in range(9)),
            Turn(text=WORDS),
        ),
    ),
]


@dataclass(frozen=True)
class Case:
    """One task of a coding agent."""

    world: Place
    runner: str
    title: str
    number: int

    @property
    def repository(self) -> str:
        return f"acme/{self.runner}"

    @property
    def branch(self) -> str:
        return f"coding-agent/issue-{self.number}"

    @property
    def task(self) -> dict[str, Any] | None:
        """The AgentTask, once it is there."""
        source = {"repository": self.repository, "number": self.number}
        for task in self.world.release.tasks():
            if source.items() <= task["spec"].get("source", {}).items():
                return task
        return None

    def pod(self, attempt: int) -> dict[str, Any] | None:
        """The pod of an attempt, while there is one."""
        job = f"{self.named()['metadata']['name']}-{attempt}"
        found = self.world.release.get("pods", "-l", f"batch.kubernetes.io/job-name={job}")["items"]
        return found[0] if found else None

    def named(self) -> dict[str, Any]:
        return dict(self.wait("an AgentTask", lambda: self.task))

    def file(self, path: str) -> str:
        """A file on the task's branch; empty if it is not there."""
        folder = self.world.forge.repository(self.repository).path
        command = ["git", "--git-dir", str(folder), "show", f"{self.branch}:{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout

    def wait(self, what: str, probe: Callable[[], Any]) -> Any:
        return until(f"{self.runner}, {self.title}: {what}", probe, timeout=WAIT, interval=0.5)

    def wait_for_command(self) -> str:
        """Wait until a command of the first attempt hangs; the uid of its pod."""

        def begun() -> str:
            pod = self.pod(1)
            with suppress(KubectlError):
                if pod is not None:
                    look = ("-c", "workspace", "--", "grep", "-q", "begun", "/workspace/tree/begun.md")
                    self.world.release.kubectl("exec", pod["metadata"]["name"], *look)
                    return str(pod["metadata"]["uid"])
            return ""

        return str(self.wait("a command that hangs", begun))

    def kill(self, attempt: int, is_meant: Callable[[str, str], bool]) -> None:
        """`kill -9` of the processes of an attempt's pod that are meant, by name and command line."""
        pod = self.pod(attempt)
        assert pod is not None
        found = [pid for pid, name, command in processes(pod["metadata"]["uid"]) if is_meant(name, command)]
        assert found, list(processes(pod["metadata"]["uid"]))
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> dict[str, Any]:
        """The status of the task when it has ended."""

        def ended() -> dict[str, Any] | None:
            status = (self.task or {}).get("status", {})
            return status if status.get("phase") in ("Succeeded", "Failed", "Cancelled") else None

        found: dict[str, Any] = self.wait("the end", ended)
        return found


def test_each_program_works_in_its_image_and_is_stopped_in_it(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    runner_images: dict[str, str],
    enforced_policies: None,
    edge: Edge,
    stack: ExitStack,
    tmp_path: Path,
    subtests: pytest.Subtests,
) -> None:
    world = start(stack, cluster, namespace, project_images, runner_images, tmp_path, edge)
    cases = {
        title: [
            Case(world, runner, title, world.forge.open_issue(f"acme/{runner}", title, "Please do."))
            for runner in PROGRAMS
        ]
        for title in (CANCELLED, KILLED, DEAR, HAPPY)
    }
    for those in cases.values():
        for case in those:
            world.forge.add_label(case.repository, case.number, BOT)
    with ThreadPoolExecutor(2 * len(PROGRAMS)) as pool:
        list(pool.map(lambda case: KILLERS[case.title](case), [*cases[KILLED], *cases[CANCELLED]]))
    for title, check in CHECKS.items():
        for case in cases[title]:
            with subtests.test(title, runner=case.runner):
                check(case, case.end())
    assert world.model.usage.keys() == {"scripted", SECOND_MODEL}


def start(
    stack: ExitStack,
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    runner_images: dict[str, str],
    folder: Path,
    edge: Edge,
) -> Place:
    """The release, which serves three repositories of one forge."""
    seed = sample_repository()
    [sample] = seed["repositories"]
    seed["repositories"] = [sample | {"name": runner} for runner in PROGRAMS]
    world = place(stack, cluster, namespace, project_images, folder, "github", SCRIPTS, seed=seed)
    release = world.release
    release.kubectl("apply", "-f", "-", stdin=json.dumps(DENY_ALL))
    release.kubectl("create", "secret", "generic", "second-model", f"--from-literal=api-key={MODEL_KEY}")
    edge.provide(release)
    key = "anthropic-api-key"
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    containers = [
        {"name": "agent", "resources": {**small, "limits": {"memory": "512Mi"}}},
        {"name": "workspace", "resources": {**small, "limits": {"memory": "2Gi"}}},
    ]
    values: dict[str, Any] = {
        **edge.values(),
        "egress": {"enabled": True, "replicas": 1, "resources": small},
        "attempts": {"credentials": [{"secret": "second-model", "key": "api-key", "file": key}]},
        "config": {
            "limits": {"global": 9},
            "budgets": {"task": {"tokens": ALLOWANCE}},
            "llm": {
                # A program that knows of a smaller context would shorten it after a dear answer.
                "openai": {"context_length": 2 * MUCH},
                "anthropic": {
                    "base_url": world.model.url,
                    "model": SECOND_MODEL,
                    "context_length": 2 * MUCH,
                    "api_key": {"files": [f"/etc/coding-agent/credentials/{key}"]},
                },
            },
            "consumer": {
                "runners": {f"acme/{runner}": runner for runner in PROGRAMS},
                "checkpoint_interval": 1e-9,
            },
            "development": {"retry_delay": 0.1, "retry_delay_max": 0.2},
            "operator": {
                "job": {
                    "workspace": {"images": {f"acme/{name}": runner_images[name] for name in PROGRAMS}},
                    "pod_template": {"spec": {"containers": containers}},
                },
            },
        },
    }
    release.install(values, "--wait", "--timeout", "240s")
    edge.wait()
    hook = stack.enter_context(forwarder(edge))
    for runner in PROGRAMS:
        world.forge.add_hook(f"acme/{runner}", f"{hook}/webhook/github", SECRET)
    return world


def kill_twice(case: Case) -> None:
    case.wait("the first attempt's work", lambda: case.file("count.md") == "1\n")
    case.kill(1, lambda name, _: name == PROGRAMS[case.runner])
    case.wait("the second attempt's work", lambda: case.file("count.md") == "2\n")
    case.kill(2, lambda _, command: "--mode attempt" in command)


def cancel(case: Case) -> None:
    uid = case.wait_for_command()
    assert any(name == PROGRAMS[case.runner] for _, name, _ in processes(uid))
    forge = case.world.forge
    case.wait("the label", lambda: PROCESSING in forge.labels(case.repository, case.number))
    forge.remove_label(case.repository, case.number, PROCESSING)
    case.wait("the pod is gone", lambda: case.pod(1) is None)
    assert list(processes(uid)) == []


KILLERS = {KILLED: kill_twice, CANCELLED: cancel}


def made_it(case: Case, status: dict[str, Any]) -> None:
    assert status["phase"] == "Succeeded", status
    [attempt] = status["attempts"]
    user, root, blocked, *_ = case.file("made.md").splitlines()
    assert int(user) >= 20_000
    assert "Read-only file system" in root
    assert BLOCKED in blocked, blocked
    assert BLOCKED in {entry["host"] for entry in attempt.get("denied", [])}
    assert attempt["usage"]["requests"] >= 2
    items = case.world.forge.repository(case.repository).items
    [change] = [item for item in items if item.head == case.branch]
    assert WORDS in change.body


def went_on(case: Case, status: dict[str, Any]) -> None:
    assert status["phase"] == "Succeeded", status
    reasons = [attempt["reason"] for attempt in status["attempts"]]
    assert reasons == ["RunnerFailed", "Crashed", "Completed"]
    assert "137" in status["attempts"][0]["message"]
    assert case.file("count.md") == "3\n"


def was_cancelled(case: Case, status: dict[str, Any]) -> None:
    assert status["phase"] == "Cancelled", status
    assert case.file("begun.md") == "begun\n"


def was_too_dear(case: Case, status: dict[str, Any]) -> None:
    assert (status["phase"], status["reason"]) == ("Failed", "BudgetExceeded"), status
    [attempt] = status["attempts"]
    usage = attempt["usage"]
    assert ALLOWANCE < usage["inputTokens"] + usage["outputTokens"] < ALLOWANCE + MUCH
    assert case.file("begun.md") == "begun\n"


CHECKS = {HAPPY: made_it, KILLED: went_on, CANCELLED: was_cancelled, DEAR: was_too_dear}
