"""Wall: what programs read from an AgentTask, against a thief of the token of another program that writes it.

The decoy: the same account stores the command that a person really wrote, and it is executed.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.task import agenttask
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.commands import ANNOTATION_COMMANDS, LABEL_COMMANDS, PENDING, stored_commands
from coding_agent_core.task.model import Origin, Phase, TaskRequest, Trigger
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.until import until

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, script
from tests.integration.operator_reporter.world import REPOSITORY, SEED, World

RECEIVER = "receiver/deploy/role.yaml"
LATER = datetime.now(UTC) + timedelta(days=365)


class Thief(World):
    """Has the token of the receiver or the poller, whose rights are the same. Alice may give commands."""

    thief: Access

    def trusted_task(self, number: int) -> str:
        """Create a task that says that nobody strange wrote its item."""
        now = datetime.now(UTC)
        trigger = Trigger(origin=Origin.WEBHOOK, received_at=now, labeled_at=now)
        request = TaskRequest(item=self.item(number), user="alice", trigger=trigger, trusted=True)
        body = agenttask.manifest(request, run=1, timeout_seconds=600, max_attempts=3)
        self.thief.kubectl("-n", self.namespace, "create", "-f", "-", stdin=json.dumps(body))
        return str(body["metadata"]["name"])

    def tell(self, name: str, command: str, comment: int) -> None:
        """Store a command of alice's on a task, and wait until the reporter has removed it."""
        stored = {
            "name": command,
            "comment": str(comment),
            "user": "alice",
            "at": LATER.isoformat(),
            "received_at": datetime.now(UTC).isoformat(),
        }
        metadata = {
            "labels": {LABEL_COMMANDS: PENDING},
            "annotations": {ANNOTATION_COMMANDS: json.dumps([stored])},
        }
        how = ("agenttask", name, "--type=merge", "-p", json.dumps({"metadata": metadata}))
        self.thief.kubectl("-n", self.namespace, "patch", *how)
        until("it was read", lambda: not stored_commands(AgentTask.of(self.read(name))))


@pytest.fixture(params=["github", "gitlab"])
def world(
    request: pytest.FixtureRequest, control_plane: PlaneUnderTest, namespace: str, tmp_path: Path
) -> Iterator[Thief]:
    """A forge, the thief's account, and a task for an issue that nobody has labeled, which has failed."""
    install(control_plane)
    seed: dict[str, Any] = copy.deepcopy(SEED)
    seed["users"].append({"login": "mallory", "token": "mallory-token"})
    seed["repositories"][0]["roles"]["mallory"] = "read"
    with ForgeServer(request.param, seed, tmp_path / "forge") as forge:
        world = Thief(control_plane, namespace, forge, tmp_path)
        kubeconfig = accounts.account(control_plane, RECEIVER, namespace, tmp_path)
        world.thief = Access(kubeconfig, control_plane.plane.binaries["kubectl"])
        yield world


@pytest.mark.parametrize("enabled", [True, False])
def test_a_stored_command_is_only_what_a_person_wrote(world: Thief, enabled: bool) -> None:
    world.sections["webhook"] = {"commands": {"enabled": enabled}}
    number, other = world.issue(), world.issue()
    world.forge.repository(REPOSITORY).private = False
    name = world.trusted_task(number)
    world.set_phase(name, Phase.FAILED)
    say = world.forge.comment
    edited = say(REPOSITORY, number, "What do you think?", by="alice")
    repository, store = world.forge.repository(REPOSITORY), world.forge.sandbox.store
    item = world.forge.item(REPOSITORY, number)
    comment = next(one for one in world.comments(number) if one.id == edited)
    comment.created_at -= timedelta(hours=1)
    world.forge.run(lambda: store.edit_comment(repository, item, world.forge.user(), comment, "/run"))
    with ExitStack() as stack:
        reporter = world.reporter().start()
        stack.callback(reporter.stop)
        reporter.ready()
        forged = {
            "another text": say(REPOSITORY, number, "Shall we /run it?", by="alice"),
            "another command": say(REPOSITORY, number, "/cancel", by="alice"),
            "another author": say(REPOSITORY, number, "/run", by="mallory"),
            "another item": say(REPOSITORY, other, "/run", by="alice"),
            "no comment": 1,
        }
        if world.flavour == "github":  # GitLab does not say that it was edited, and mallory may not do it
            forged["edited"] = edited
        for what, comment_id in forged.items():
            world.tell(name, "run", comment_id)
            assert set(world.tasks()) == {name}, what

        said = say(REPOSITORY, number, "/run", by="alice")
        world.tell(name, "run", said)
        if not enabled:
            assert set(world.tasks()) == {name}
            return
        assert set(world.tasks()) == {name, f"{name}-r2"}, "the decoy"
        spec = world.read(f"{name}-r2")["spec"]
        assert datetime.fromisoformat(spec["trigger"]["labeledAt"]) < LATER - timedelta(days=1)
        assert not spec.get("trusted"), "the repository is public, and nobody in it wrote the issue"


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_attempt_does_nothing_for_an_item_that_a_stranger_wrote_if_the_task_says_otherwise(
    make_place: MakePlace, trusted: bool
) -> None:
    place = make_place("github", script(finish()))
    forge = place.system.forge
    repository = forge.repository(REPOSITORY)
    repository.private = False
    repository.roles.pop("reader")
    number = forge.open_issue(REPOSITORY, "Fix it", "It is wrong.", by="reader")
    given = place.given(item={"number": number}).model_copy(update={"trusted": trusted})
    outcome = await place.run(given, operator={"job": {"cache": {"enabled": True}}})
    if trusted:
        assert outcome.reason is Reason.NOT_APPROVED
        assert "Apply the label again" in (outcome.message or "")
    assert bool(place.system.model.requests) is not trusted, "the decoy: it works if the task does not say so"
