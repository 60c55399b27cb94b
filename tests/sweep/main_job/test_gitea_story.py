"""The main job and its rounds without Kubernetes, with a real Gitea: people act only in its API."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.values import MARKER
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT, DONE, PROCESSING
from tests.integration.main_job.scripts import finish, run, write
from tests.sweep.main_job.gitea_world import SECONDS, World, running

pytestmark = pytest.mark.timeout(900)
BRANCH, FILE = "coding-agent/issue-1", "notes.md"


@pytest.fixture(params=["one machine", "rabbitmq"])
def world(request: pytest.FixtureRequest, gitea: Any, gitea_sample: Any, tmp_path: Path) -> Iterator[World]:
    """A system with rounds, whose only poll comes before anything is labeled."""
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
        modes, sections = ["webhook"], dict[str, Any]()
        if request.param == "rabbitmq":
            broker = request.getfixturevalue("rabbitmq")
            queue = request.getfixturevalue("rabbitmq_queue")
            rabbitmq = {"host": broker.host, "port": broker.port, "queue": queue}
            sections = {"use_rabbitmq": True, "rabbitmq": rabbitmq}
            modes += ["consumer", "consumer"]
        with running(gitea, gitea_sample, scripts, tmp_path, gate, modes=modes, **sections) as found:
            yield found


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
    until("merged", lambda: world.pulls()[0]["merged"])
    assert len([body for body in world.comments(number) if MARKER in body]) == 1
    world.assert_tasks(1)


def test_a_task_ends_when_its_label_goes_and_starts_again_when_it_returns(world: World) -> None:
    alice, repository = world.alice, world.repository
    number = alice.create_issue(repository, "Takes long")
    alice.add_label(repository, number, "bug")
    alice.add_label(repository, number, BOT)
    alice.add_label(repository, number, BOT)
    world.until_labels(number, PROCESSING)
    until("the model works", lambda: len(world.model.requests) > 0)
    alice.remove_label(repository, number, PROCESSING)
    # The command itself never ends: its gate opens only afterwards.
    until(
        lambda: str(world),
        lambda: "Coding agent: cancelled" in "".join(world.comments(number)),
        timeout=SECONDS,
    )
    assert world.labels(number) == set()
    world.gate.touch()
    alice.add_label(repository, number, BOT)
    world.until_labels(number, DONE)
    assert [event for event in world.history(number) if event[1] == DONE] == [("labeled", DONE)]
    world.assert_tasks(2)
