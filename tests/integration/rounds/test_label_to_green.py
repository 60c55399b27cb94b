"""A labeled issue becomes a change that is ready: its failed check and its review cause one round each.

Receiver, operator and reporter are processes over a real API server and a sandbox forge. There is no node, so
the test plays the kubelet, and each pod's attempt runs in the test's own process with a scripted model.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting.comment import read_state
from coding_agent_core.task.attempts import ENVIRONMENT_VARIABLE, AttemptInput, Outcome
from coding_agent_core.task.round_record import RoundEnd, RoundRecord
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.deliveries import SECRET, TOKEN
from tests.fixtures.system import BOT_TOKEN, DONE, REPOSITORY, StartSystem, System
from tests.integration.consumer_attempt.place import AttemptPlace, WorkspaceProcess
from tests.integration.core_kubernetes.place import Place
from tests.integration.main_job.scripts import finish, write
from tests.integration.operator.pod_driver import Ends, PodDriver
from tests.integration.operator.world import OperatorProcess
from tests.integration.operator.world import account as operator_account
from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.process import account as reporter_account
from tests.integration.operator_reporter.world import QUICK

US, FILE = "coding-agent-bot", "answer.txt"
ROUNDS = {"enabled": True, "interval": 3600, "checks_quiet": 0, "review_quiet": 0}
"""Only webhooks cause looks."""
LOG = b"FAILED test_answer - AssertionError: expected 'two'\n"
SCRIPTS = [
    Script(match="review: round 1 of 5", turns=(write(FILE, "TWO\n"), finish("It is louder now."))),
    Script(match="checks: round 1 of 3", turns=(write(FILE, "two\n"), finish("The answer is two."))),
    Script(turns=(write(FILE, "one\n"), finish("The answer is one."))),
]


@dataclass
class Pods:
    """The attempts of Jobs, one at a time."""

    plane: PlaneUnderTest
    namespace: str
    place: AttemptPlace
    attempts: dict[str, Future[Outcome]] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def script(self, job: str) -> Ends | None:
        """How the pod of a Job ends; `None` while its attempt runs."""
        if job not in self.attempts:
            self.attempts[job] = self._thread.submit(self._run, job)
        if not self.attempts[job].done():
            return None
        outcome = self.attempts[job].result()
        return Ends(outcome.exit_code.value, outcome.to_termination_message())

    def _run(self, job: str) -> Outcome:
        pod = self.plane.batch.read_namespaced_job(
            job, self.namespace, _request_timeout=60
        ).spec.template.spec
        variables = [one for container in pod.containers for one in container.env or ()]
        given = next(one.value for one in variables if one.name == ENVIRONMENT_VARIABLE)
        task = AttemptInput.from_json(given, now=datetime.now(UTC))
        return asyncio.run(self.place.run(task, rounds=ROUNDS))


@dataclass
class Story:
    """What happens on the forge, and in the cluster."""

    system: System
    tasks: Place
    pods: Pods
    reporter: Reporter

    def runs(self) -> list[tuple[str, str]]:
        """Cause and phase of each task, sorted: their creation is known to the second only."""
        return sorted(
            (body["spec"]["trigger"].get("cause", ""), body.get("status", {}).get("phase", ""))
            for body in self.tasks.tasks().values()
        )

    def wait_for_runs(self, *causes: str) -> None:
        """Wait until there are runs with these causes, and all have succeeded."""
        expected = sorted((cause, "Succeeded") for cause in causes)
        until(lambda: f"{expected}; there are {self.runs()}", lambda: self.runs() == expected)

    def head(self, branch: str) -> str:
        return self.system.git("rev-parse", branch).strip()

    def check(self, branch: str) -> None:
        """What a repository's CI does after a push."""
        passes = self.system.file_at(branch, FILE).casefold() == "two\n"
        result, log = ("success", b"") if passes else ("failure", LOG)
        self.system.forge.add_check(REPOSITORY, self.head(branch), "test", result, log=log)

    def record(self, number: int) -> RoundRecord:
        """The record in our one comment on the change."""
        [body] = [one.body for one in self.system.comments(number, Kind.CHANGE) if MARKER in one.body]
        state = read_state(body)
        return (state.rounds if state else None) or RoundRecord()

    def looks(self) -> float:
        host = self.system.forge.base_url.removeprefix("http://")
        return self.reporter.metric(f'coding_agent_reporter_scans_total{{host="{host}",result="done"}}')


@pytest.fixture
def plane(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    install(control_plane)
    return control_plane


@pytest.fixture(params=["github", pytest.param("gitlab", marks=pytest.mark.long)])
def story(
    request: pytest.FixtureRequest,
    plane: PlaneUnderTest,
    namespace: str,
    start_system: StartSystem,
    tmp_path: Path,
) -> Iterator[Story]:
    """The running system."""
    flavour = str(request.param)
    system = start_system(flavour, SCRIPTS)
    system.forge.sandbox.mergeability_lag = 0
    sections: dict[str, Any] = {
        flavour: {"api_url": system.forge.api_url, "personal_access_token": BOT_TOKEN},
        "rounds": ROUNDS,
    }
    with ExitStack() as stack:
        workspace = WorkspaceProcess(tmp_path)
        stack.callback(workspace.end)
        tasks = Place(plane, namespace, tmp_path)
        receiver = tasks.start_receiver(tasks.account(), forge=sections)
        stack.callback(receiver.terminate)
        url = f"http://127.0.0.1:{receiver.port()}/webhook/{flavour}"
        system.forge.add_hook(REPOSITORY, url, {"github": SECRET, "gitlab": TOKEN}[flavour])
        pods = Pods(plane, namespace, AttemptPlace(system, workspace, tmp_path))
        stack.enter_context(PodDriver(plane, namespace, pods.script))
        operator = OperatorProcess(
            operator_account(plane, namespace, tmp_path), namespace, tmp_path, {}
        ).start()
        stack.callback(operator.stop)
        config = tmp_path / f"reporter-{os.urandom(3).hex()}.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    **sections,
                    "operator": {"namespace": namespace},
                    "development": QUICK,
                }
            )
        )
        reporter = Reporter(reporter_account(plane, namespace, tmp_path), config).start()
        stack.callback(reporter.stop)
        stack.callback(lambda: print(receiver.text()[-4000:], operator.log()[-4000:], reporter.log()[-6000:]))
        yield Story(system, tasks, pods, reporter.ready())


def test_a_failed_check_and_a_review_cause_one_round_each_until_all_is_green(story: Story) -> None:
    system = story.system
    system.put_label(1)
    system.wait_for_label(1, DONE)
    [change] = system.changes()
    branch, first = change.head, story.head(change.head)
    story.check(branch)  # fails
    story.wait_for_runs("label", "checks")
    system.wait_for_label(change.number, DONE, Kind.CHANGE)
    second = story.head(branch)
    assert system.file_at(branch, FILE) == "two\n"
    asked = str(system.model.requests[-1])
    assert "AssertionError: expected" in asked, "the round reads the log of the check"
    assert [(one.end, one.before, one.after) for one in story.record(change.number).rounds] == [
        (RoundEnd.PUSHED, first, second)
    ]
    story.check(branch)  # passes

    thread = system.forge.start_thread(
        REPOSITORY, change.number, "Please say it louder.", path=FILE, line=1, by="alice"
    )
    story.wait_for_runs("label", "checks", "review")
    until("the review is recorded", lambda: len(story.record(change.number).rounds) == 2)
    third = story.head(branch)
    assert system.file_at(branch, FILE) == "TWO\n"
    assert system.git("rev-list", f"{first}..{third}").split() == [third, second], "one commit each"
    question, answer = thread.comments
    assert (question.author.login, answer.author.login) == ("alice", US)
    assert third[:12] in answer.body

    before = story.looks()
    story.check(branch)  # passes
    until("the green change was looked at", lambda: story.looks() > before)
    assert story.runs() == [(cause, "Succeeded") for cause in ("checks", "label", "review")]
    assert len(story.pods.attempts) == 3, "one attempt each"
    [comment] = [one.body for one in system.comments(change.number, Kind.CHANGE) if MARKER in one.body]
    assert "review round 1 of 5" in comment
