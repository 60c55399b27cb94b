"""Rounds without Kubernetes: a failed check and a review have one round each, despite kills and repeats."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import State, comment, read_state
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_record import RoundRecord, answer_mark
from coding_agent_testbed.forge.model import Item as ForgeItem
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT, DONE, PROCESSING, REPOSITORY, StartSystem, System
from tests.integration.main_job.scripts import finish, run, write
from tests.unit.core_reporting.making import ITEM, report

US, BRANCH, FILE = "coding-agent-bot", "coding-agent/issue-1", "notes.md"


@dataclass
class Story:
    """A change of ours in a running system, whose work on a review waits for a gate."""

    system: System
    number: int
    gate: Path

    @property
    def head(self) -> str:
        return self.system.git("rev-parse", BRANCH).strip()

    @property
    def change(self) -> ForgeItem:
        return self.system.forge.item(REPOSITORY, self.number, Kind.CHANGE)

    def show_the_end_on_the_issue(self) -> None:
        """What the task has left that opened the change."""
        forge = self.system.forge
        paths = {"github": "pull", "gitlab": "-/merge_requests"}
        url = f"{forge.base_url}/{REPOSITORY}/{paths[self.system.flavour]}/{self.number}"
        state = State(uuid="earlier", phase=Phase.SUCCEEDED, branch=BRANCH, change_url=url)
        item = ITEM.model_copy(update={"platform": Platform(self.system.flavour)})
        text = comment(replace(report(state), item=item))
        forge.comment(REPOSITORY, 1, text, kind="issue", by=US)

    def on_the_issue(self) -> str:
        [found] = [one.body for one in self.system.comments(1, Kind.ISSUE) if MARKER in one.body]
        return str(found)

    def record(self) -> RoundRecord:
        found = [one.body for one in self.system.comments(self.number, Kind.CHANGE) if MARKER in one.body]
        assert len(found) <= 1, "one comment on the change"
        state = read_state(found[0]) if found else None
        return (state.rounds if state else None) or RoundRecord()

    def ends(self) -> list[tuple[str, str]]:
        return [(entry.kind, entry.end) for entry in self.record().rounds]

    def labels(self) -> set[str]:
        return self.system.labels(self.number, Kind.CHANGE) & {BOT, PROCESSING, DONE}

    def looks(self) -> int:
        """How often somebody has listed our open changes."""
        sent = httpx2.get(f"{self.system.forge.base_url}/_sandbox/requests", timeout=60, trust_env=False)
        lists = {"github": "/graphql", "gitlab": "/merge_requests"}[self.system.flavour]
        return sum(str(one["path"]).endswith(lists) for one in sent.json())

    def look_again(self) -> None:
        """Wait until somebody has looked several times from now on."""
        before = self.looks()
        until(lambda: f"looks; {self.system._logs()}", lambda: self.looks() > before + 4)

    def until_ended(self, *rounds: tuple[str, str]) -> None:
        until(
            lambda: f"{rounds}: {self.ends()}, {self.labels()}; {self.system._logs()}",
            lambda: self.ends() == list(rounds) and self.labels() == {DONE},
            timeout=300,
        )

    def kill_and_start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """`kill -9` of all consumers, and a new one."""
        for program in self.system.programs[1:]:
            if program.process.poll() is None:
                program.kill()
        meanwhile()
        self.system.start_consumer()

    def check(self, result: str) -> None:
        self.system.forge.add_check(REPOSITORY, self.head, "test", result, log=b"1 failed\n")


@pytest.fixture(params=["github", pytest.param("gitlab", marks=pytest.mark.long)])
def story(
    request: pytest.FixtureRequest, start_system: StartSystem, rabbitmq: Broker, rabbitmq_queue: str
) -> Iterator[Story]:
    """A change of ours, and a system with rounds that everything reaches twice."""
    with tempfile.TemporaryDirectory() as folder:
        # The workspace's commands run as another user, who cannot see into the test's own folder.
        Path(folder).chmod(0o755)
        gate = Path(folder) / "gate"
        scripts = [
            Script(match="checks: round", turns=(write(FILE, "one\n2\n"), finish("The check passes now."))),
            Script(
                match="review: round",
                turns=(
                    run(f"while [ ! -e {gate} ]; do sleep 0.2; done"),
                    write(FILE, "one\nzwei\n"),
                    finish("It is zwei now."),
                ),
            ),
        ]
        sections: dict[str, Any] = {
            "rounds": {
                "enabled": True,
                "interval": 1,
                # Without any check, a draft is ready after this time, so a check begins sooner.
                "checks_quiet": 2,
                "review_quiet": 0,
                "draft": True,
            },
            "scheduling": {"interval": 1},
            "consumer": {"workspace": {"isolation": "none"}},
            "use_rabbitmq": True,
            "rabbitmq": {"host": rabbitmq.host, "port": rabbitmq.port, "queue": rabbitmq_queue},
        }
        system = start_system(request.param, scripts, **sections)
        system.forge.sandbox.mergeability_lag = 0
        system.forge.set_deliveries(doubled=1.0)
        system.forge.push(REPOSITORY, "main", {FILE: "one\ntwo\n"}, by="alice")
        system.forge.push(REPOSITORY, BRANCH, {FILE: "one\nzwo\n"}, by=US)
        number = system.forge.open_change(REPOSITORY, BRANCH, "main", title="Say 2", draft=True, by=US)
        yield Story(system, number, gate)


def answers(thread: Any) -> list[str]:
    """What we wrote in a thread."""
    return [one.body for one in thread.comments if one.author.login == US]


def test_from_a_failed_check_to_an_answered_review(story: Story) -> None:
    system = story.system
    first_head = story.head
    story.check("failure")
    story.show_the_end_on_the_issue()
    receiver = system.start_webhook()
    system.start_consumer()
    system.start_consumer()
    until(lambda: f"the push; {system._logs()}", lambda: story.head != first_head, timeout=300)
    story.check("")
    story.until_ended(("checks", "pushed"))
    assert system.git("rev-parse", f"{BRANCH}^").strip() == first_head
    until(story.on_the_issue, lambda: "was opened: 1 round for failed checks" in story.on_the_issue())
    assert story.change.draft
    story.check("success")
    until(lambda: f"it is ready; {system._logs()}", lambda: not story.change.draft)

    green = story.head
    thread = system.forge.start_thread(
        REPOSITORY, story.number, "Say it in German.", path=FILE, line=2, by="alice"
    )
    until("the event causes a rescan", lambda: "Rescan stored: " in receiver.text())
    until(lambda: f"the round starts; {system._logs()}", lambda: story.labels() == {PROCESSING})
    until("the model works", lambda: len(system.model.requests) >= 3)
    story.kill_and_start()
    until(lambda: f"the next attempt; {system._logs()}", lambda: len(system.model.requests) >= 4)

    # The consumer is killed again after its push and its answer, before the comment shows the end.
    system.fault(method="(PATCH|PUT)", path=r".*/(issues/comments|notes)/\d+", status=503, times=None)
    story.gate.touch()
    until(lambda: f"the answer; {system._logs()}", lambda: answers(thread), timeout=300)
    asked = len(system.model.requests)
    story.kill_and_start(system.clear_faults)
    story.until_ended(("checks", "pushed"), ("review", "pushed"))
    assert len(system.model.requests) == asked, "the push of the killed round is found"

    until(story.on_the_issue, lambda: "2 rounds, 1 for failed checks, 1 for a review" in story.on_the_issue())
    story.look_again()
    assert story.ends() == [("checks", "pushed"), ("review", "pushed")]
    assert system.file_at(BRANCH, FILE) == "one\nzwei\n"
    assert system.git("rev-list", "--count", f"{green}..{BRANCH}").strip() == "1", "one commit"
    [answer] = answers(thread)
    assert answer.startswith(answer_mark([f"t{thread.comments[0].id}"]))
    assert thread.resolved_by is None
