"""The main job and its rounds without Kubernetes, with a real Gitea: people act only in its API."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting import read_state
from coding_agent_core.tasks import host_of
from coding_agent_model.script import Script
from coding_agent_model.server import ModelServer

from tests.fixtures.preloaded import start_main
from tests.fixtures.system import BOT, DONE, MODEL_KEY, PROCESSING, SECRET, Program, until
from tests.integration.main_job.scripts import finish, run, write

pytestmark = pytest.mark.timeout(900)
_SECONDS = 300.0
"""A busy machine can keep Gitea from answering for longer than our client waits for one request."""
BRANCH, FILE = "coding-agent/issue-1", "notes.md"
OTHERS = {BOT, PROCESSING, DONE}


@dataclass
class World:
    """A running system, and Gitea as a person sees it."""

    programs: list[Program]
    model: ModelServer
    alice: Any
    repository: str
    bot: str
    """The bot's login."""
    gate: Path

    def labels(self, number: int) -> set[str]:
        found = self.alice.call("GET", f"/repos/{self.repository}/issues/{number}/labels")
        return {label["name"] for label in found} & OTHERS

    def until_labels(self, number: int, *labels: str) -> None:
        until(
            lambda: self.labels(number) == set(labels),
            lambda: f"{labels}: {self.labels(number)}; {self}",
            _SECONDS,
        )

    def comments(self, number: int) -> list[str]:
        found = self.alice.call("GET", f"/repos/{self.repository}/issues/{number}/comments")
        return [comment["body"] for comment in found]

    def ends(self, number: int) -> list[tuple[str, str]]:
        ours = [body for body in self.comments(number) if MARKER in body]
        assert len(ours) <= 1
        state = read_state(ours[0]) if ours else None
        rounds = state.rounds.rounds if state and state.rounds else ()
        return [(entry.kind, entry.end) for entry in rounds]

    def until_ends(self, number: int, *ends: tuple[str, str]) -> None:
        until(
            lambda: self.ends(number) == list(ends),
            lambda: f"{ends}: {self.ends(number)}; {self}",
            _SECONDS,
        )

    def history(self, number: int) -> list[tuple[str, str]]:
        found = self.alice.call("GET", f"/repos/{self.repository}/issues/{number}/timeline")
        entries = [one for one in found if one["type"] == "label" and one["label"]["name"] in OTHERS]
        return [("labeled" if one["body"] else "unlabeled", one["label"]["name"]) for one in entries]

    def pulls(self) -> list[Any]:
        return list(self.alice.call("GET", f"/repos/{self.repository}/pulls", state="all"))

    def assert_tasks(self, number: int) -> None:
        """Check how many tasks there were. A broker takes all events, and its consumers drop the others."""
        if len(self.programs) == 1:
            assert self.programs[0].text().count("Task queued successfully") == number, str(self)

    def __str__(self) -> str:
        return "\n---\n".join(program.text()[-5000:] for program in self.programs)


@pytest.fixture(params=["memory", "rabbitmq"])
def world(request: pytest.FixtureRequest, gitea: Any, gitea_sample: Any, tmp_path: Path) -> Iterator[World]:
    """A system with rounds, whose only poll comes before anything is labeled."""
    sample = gitea_sample
    with tempfile.TemporaryDirectory() as folder:
        # The workspace's commands run as another user, who cannot see into the test's own folder.
        Path(folder).chmod(0o755)
        gate = Path(folder) / "gate"
        waits = run(f"while [ ! -e {gate} ]; do sleep 0.2; done")
        scripts = [
            Script(match="checks: round", turns=(write(FILE, "one\n2\n"), finish("The check passes now."))),
            Script(match="review: round", turns=(write(FILE, "one\nzwei\n"), finish("It is zwei now."))),
            Script(match="Takes long", turns=(waits, finish())),
            Script(turns=(write(FILE, "one\ntwo\n"), finish("Wrote it."))),
        ]
        with ModelServer(scripts, api_key=MODEL_KEY) as model:
            owner = sample.repository.split("/")[0]
            config: dict[str, Any] = {
                "task_source": "gitea",
                "gitea": {"api_url": sample.url, "account": sample.bot.login, "owner": owner},
                "webhook": {"server": {"host": "127.0.0.1", "port": 0}, "gitea": {"secret": SECRET}},
                "llm": {"openai": {"base_url": model.base_url, "model": "scripted"}, "max_retries": 1},
                "context_storage": {"base_dir": str(tmp_path / "contexts")},
                "consumer": {"cancel_check_interval": 0.2, "workspace": {"isolation": "none"}},
                "rounds": {"enabled": True, "interval": 2, "checks_quiet": 0, "review_quiet": 0},
                "scheduling": {"interval": 3600},
            }
            modes = ["webhook"]
            if request.param == "rabbitmq":
                broker = request.getfixturevalue("rabbitmq")
                queue = request.getfixturevalue("rabbitmq_queue")
                config["use_rabbitmq"] = True
                config["rabbitmq"] = {"host": broker.host, "port": broker.port, "queue": queue}
                modes += ["consumer", "consumer"]
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "LANG": "C.UTF-8",
                "GITEA_PERSONAL_ACCESS_TOKEN": sample.bot.token,
                "OPENAI_API_KEY": MODEL_KEY,
            }
            programs = []
            for number, mode in enumerate(modes):
                log = tmp_path / f"main-{number}.log"
                arguments = ["--config", str(tmp_path / "config.yaml"), "--mode", mode]
                programs.append(Program(start_main(arguments, cwd=tmp_path, log=log, env=environment), log))
            if request.param == "memory":
                polled = f"Polled {host_of(sample.url)}"
                until(lambda: polled in programs[0].text(), programs[0].text)
            with gitea.api() as admin, gitea.api(sample.maintainer) as alice:
                admin.add_collaborator(sample.repository, sample.bot.login, "admin")
                url = f"http://127.0.0.1:{programs[0].port()}/webhook/gitea"
                admin.add_hook(sample.repository, url, SECRET)
                yield World(programs, model, alice, sample.repository, sample.bot.login, gate)
            for program in programs:
                assert program.terminate() == 0, program.text()
                assert sample.bot.token not in program.text()


def test_from_the_label_to_the_merge(world: World) -> None:
    alice, repository = world.alice, world.repository
    number = alice.create_issue(repository, "Write notes", "One, two.", [BOT])
    world.until_labels(number, DONE)
    assert world.history(number) == [
        *[("labeled", BOT), ("labeled", PROCESSING), ("unlabeled", BOT)],
        *[("labeled", DONE), ("unlabeled", PROCESSING)],
    ]
    [comment] = world.comments(number)
    assert "Coding agent: done" in comment
    assert "attempt 1 of 3" in comment
    [pull] = world.pulls()
    assert (pull["head"]["ref"], pull["user"]["login"]) == (BRANCH, world.bot)
    assert alice.read_file(repository, FILE, BRANCH) == "one\ntwo\n"
    change = pull["number"]

    alice.set_status(repository, pull["head"]["sha"], "failure", "ci/unit", "2 is a digit")
    world.until_ends(change, ("checks", "pushed"))
    assert alice.read_file(repository, FILE, BRANCH) == "one\n2\n"
    [pull] = world.pulls()
    alice.set_status(repository, pull["head"]["sha"], "success", "ci/unit")
    alice.review(repository, change, "REQUEST_CHANGES", "Nearly.", [(FILE, 2, "Say it in German.")])
    world.until_ends(change, ("checks", "pushed"), ("review", "pushed"))
    assert alice.read_file(repository, FILE, BRANCH) == "one\nzwei\n"
    [review] = [
        one
        for one in alice.call("GET", f"/repos/{repository}/pulls/{change}/reviews")
        if one["user"]["login"] != world.bot
    ]
    said = alice.call("GET", f"/repos/{repository}/pulls/{change}/reviews/{review['id']}/comments")
    assert sorted("zwei" in one["body"] for one in said) == [False, True], "an answer in the thread"
    alice.merge(repository, change)
    until(lambda: world.pulls()[0]["merged"], "merged")
    assert len([body for body in world.comments(number) if MARKER in body]) == 1
    world.assert_tasks(1)


def test_a_task_ends_when_its_label_goes_and_starts_again_when_it_returns(world: World) -> None:
    alice, repository = world.alice, world.repository
    number = alice.create_issue(repository, "Takes long")
    alice.add_label(repository, number, "bug")
    alice.add_label(repository, number, BOT)
    alice.add_label(repository, number, BOT)
    world.until_labels(number, PROCESSING)
    until(lambda: len(world.model.requests) > 0, "the model works")
    alice.remove_label(repository, number, PROCESSING)
    # The command itself never ends: its gate opens only afterwards.
    until(lambda: "label was removed" in "".join(world.comments(number)), lambda: str(world), _SECONDS)
    assert world.labels(number) == set()
    world.gate.touch()
    alice.add_label(repository, number, BOT)
    world.until_labels(number, DONE)
    assert [event for event in world.history(number) if event[1] == DONE] == [("labeled", DONE)]
    world.assert_tasks(2)
