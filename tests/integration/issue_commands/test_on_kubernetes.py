"""Commands on Kubernetes: the receiver stores them without a token, the reporter executes them."""

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.commands import stored_commands
from coding_agent_core.task.model import Phase, task_name
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.model import Comment
from coding_agent_testbed.until import until

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.deliveries import TOKEN
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.place import Place
from tests.integration.issue_commands.steps import next_second, seen
from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, PROCESSING, REPOSITORY, SEED, World


def seed() -> dict[str, Any]:
    """The reporter's sample, with somebody who may only read and write comments."""
    given: dict[str, Any] = copy.deepcopy(SEED)
    given["users"].append({"login": "reader", "token": "reader-token"})
    given["repositories"][0]["roles"]["reader"] = "read"
    return given


class Team(World):
    """People who write comments, on a forge whose webhooks reach a receiver."""

    def say(self, number: int, text: str, *, by: str = "alice") -> Comment:
        """Somebody writes a comment."""
        if text in ("/cancel", "/retry"):
            next_second()
        written = self.forge.comment(REPOSITORY, number, text, by=by)
        return next(comment for comment in self.comments(number) if comment.id == written)

    def waits(self, name: str, comment: Comment) -> bool:
        """Whether the AgentTask stores the command."""
        return str(comment.id) in {
            command.comment for command in stored_commands(AgentTask.of(self.read(name)))
        }

    def redeliver_everything(self) -> None:
        """The forge sends every event once more."""
        deliveries = self.forge.sandbox.deliveries
        again = self.forge.run(lambda: [deliveries.resend(found) for found in list(deliveries.log)])
        self.forge.wait_for(lambda: all(item.status != "pending" for item in again), 60)
        assert {entry.status_code for entry in again} == {200}


@pytest.fixture(scope="session")
def plane(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    """The control plane with the AgentTask resource."""
    install(control_plane)
    return control_plane


@pytest.fixture
def team(plane: PlaneUnderTest, namespace: str, tmp_path: Path) -> Iterator[Team]:
    """A forge and a receiver with commands on; no reporter yet."""
    with ForgeServer("gitlab", seed(), tmp_path / "forge") as forge, ExitStack() as stack:
        place = Place(plane, namespace, tmp_path)
        sections = {"gitlab": {"api_url": forge.api_url}}
        receiver = place.start_receiver(place.account(), forge=sections, commands={"enabled": True})
        stack.callback(_end, receiver)
        forge.add_hook(REPOSITORY, f"http://127.0.0.1:{receiver.port()}/webhook/gitlab", TOKEN)
        yield Team(plane, namespace, forge, tmp_path, sections={"webhook": {"commands": {"enabled": True}}})


@pytest.fixture
def start(team: Team) -> Iterator[Callable[[], Reporter]]:
    """Start a reporter; it ends with the test."""
    with ExitStack() as stack:

        def begin() -> Reporter:
            process = team.reporter().start()
            stack.callback(lambda: print(process.log()[-6000:]))
            stack.callback(process.stop)
            return process.ready()

        yield begin


@pytest.mark.long
def test_people_with_write_access_command_the_agent_by_comments(
    team: Team, start: Callable[[], Reporter]
) -> None:
    number = team.issue()
    name = task_name(team.item(number))

    # There is nothing to command yet: the label starts the first run.
    team.say(number, "/run")
    with team.forge.delivering():
        team.forge.add_label(REPOSITORY, number, BOT)
    until("the label's task", lambda: set(team.tasks()) == {name})

    # The forge does not say at first who alice is, and then the reporter is killed.
    reporter = start()
    team.set_phase(name, Phase.RUNNING)
    team.shows(number, "working on it", {PROCESSING})
    outage = team.forge.fault(path=r".*/users$", times=None, status=503)
    cancel = team.say(number, "/cancel")
    until("the reporter has asked who she is", lambda: outage.hits)
    assert team.waits(name, cancel)
    reporter.stop(signal.SIGKILL)
    outage.end()

    # Nobody without write access, and never the bot itself.
    strangers = [team.say(number, "/cancel", by=who) for who in ("reader", "coding-agent-bot")]
    for stranger in strangers:
        until("it waits", lambda stranger=stranger: team.waits(name, stranger))  # type: ignore[misc]
    reporter = start()
    until(
        "all are executed", lambda: not any(team.waits(name, stranger) for stranger in (cancel, *strangers))
    )
    assert [seen(stranger) for stranger in (cancel, *strangers)] == [[("coding-agent-bot", "eyes")], [], []]
    assert team.read(name)["spec"].get("cancel") is True
    team.set_phase(name, Phase.CANCELLED)
    assert "alice cancelled it with a comment." in team.shows(number, "cancelled", set())
    until("it is over and no longer watched", lambda: team.is_reported(name))

    retried = team.say(number, "/retry")
    until("there is a second run", lambda: set(team.tasks()) == {name, f"{name}-r2"})
    until("the first is no longer watched again", lambda: team.is_reported(name))
    assert seen(retried) == [("coding-agent-bot", "eyes")]
    second = team.read(f"{name}-r2")["spec"]
    assert (second["user"], second["trigger"]["origin"]) == ("alice", "manual")
    team.set_phase(f"{name}-r2", Phase.RUNNING)
    team.shows(number, f"task `{name}-r2`", {PROCESSING})

    team.redeliver_everything()
    again = team.say(number, "/run")
    until("the last command is executed", lambda: bool(seen(again)))
    until("none waits", lambda: not stored_commands(AgentTask.of(team.read(f"{name}-r2"))))
    assert set(team.tasks()) == {name, f"{name}-r2"}, "nothing that was delivered again was done again"
    assert team.read(f"{name}-r2")["spec"].get("cancel", False) is False
    team.shows(number, "working on it", {PROCESSING})
    assert sum(stranger.author.login == "coding-agent-bot" for stranger in team.comments(number)) == 2, (
        "the one comment of ours, and the /cancel that this test wrote in the bot's name"
    )


def _end(program: Program) -> None:
    if program.process.poll() is None:
        program.process.terminate()
        program.process.wait(60)
