"""Attempts whose commits GitHub makes and signs (`consumer.commits.sign: github`)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent_interface import Brief, OnStep, Step
from coding_agent_consumer.repository import forge_commits, publisher
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason

from tests.fixtures.forge import client
from tests.fixtures.github_app import create_app, install, key_pair
from tests.fixtures.system import BOT_TOKEN, REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace

FIRST = "coding-agent/issue-1"
SIGNED: dict[str, Any] = {"commits": {"sign": "github"}, "checkpoint_interval": 1e-9}
MUTATION = "/api/graphql"
FETCH = r"/acme/pricing\.git/info/refs"

Work = Callable[[Workspace, Callable[[], Awaitable[None]]], Awaitable[None]]


@dataclass
class Worker:
    """An agent that does this work. The work's second argument pushes what was done so far."""

    does: Work
    prompt: str = ""

    async def work(self, brief: Brief, workspace: Workspace, *, on_step: OnStep, **_: object) -> Outcome:
        self.prompt = brief.prompt

        async def checkpoint() -> None:
            await on_step(Step(1, "tool", "worked"))

        await self.does(workspace, checkpoint)
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Say it better.")


async def run(place: AttemptPlace, work: Work, **sections: Any) -> Outcome:
    sections = {"consumer": SIGNED, **sections}
    return await place.run(place.given(), make_agent=lambda *_: Worker(work), **sections)


def commits(place: AttemptPlace) -> list[str]:
    """The subjects on the branch, oldest first."""
    return place.system.git("log", "--reverse", "--format=%s", f"main..{FIRST}").splitlines()


async def test_the_app_is_the_author_of_verified_commits(make_place: MakePlace, tmp_path: Path) -> None:
    place = make_place("github", [])
    app = create_app(place.system.forge)
    install(place.system.forge, app)
    (tmp_path / "key.pem").write_text(key_pair()[0])

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")
        await checkpoint()
        await workspace.run(r"rm README.md; printf '\0\1' > b.bin; mkdir c; echo c > c/ü.md")

    worker = Worker(work)
    github = {
        "app": {"app_id": app.id, "private_key_file": str(tmp_path / "key.pem")},
        "personal_access_token": None,
    }
    outcome = await place.run(place.given(), make_agent=lambda *_: worker, consumer=SIGNED, github=github)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert "# Kinds of files" in worker.prompt
    [first, second] = commits(place)
    assert (first.startswith("Work so far on "), second) == (True, "Say it better")
    assert outcome.commit == place.system.git("rev-parse", FIRST).strip()
    changed = place.system.git("diff", "--name-status", "--no-renames", "-z", "main", FIRST).split("\0")
    assert changed == ["D", "README.md", "A", "a.md", "A", "b.bin", "A", "c/ü.md", ""]
    people = place.system.git("log", "-1", "--format=%an <%ae>%n%cn%n%(trailers)", FIRST).splitlines()
    assert people[0].startswith("coding-agent")
    assert "+coding-agent[bot]@users.noreply." in people[0]
    assert people[1] == "GitHub"
    assert people[2].startswith("Co-authored-by: alice <"), "the person who asked"
    for commit in place.system.git("rev-list", f"main..{FIRST}").split():
        assert commit in place.system.forge.repository(REPOSITORY).signed
    with client(place.system.forge, BOT_TOKEN) as api:
        shown = api.get(f"/repos/{REPOSITORY}/branches/{FIRST}").json()["commit"]["commit"]
    assert shown["verification"]["verified"]
    [change] = place.system.changes()
    assert (change.head, change.author.login) == (FIRST, "coding-agent[bot]")


@pytest.mark.parametrize("type_", ["", "UNPROCESSABLE"])
async def test_a_push_of_a_person_in_between_is_not_overwritten(make_place: MakePlace, type_: str) -> None:
    """Whatever type GitHub gives to its refusal, and even if the branch ends with the files of the work."""
    place = make_place("github", [])

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")
        await checkpoint()
        for files in ({"a.md": "mine\n"}, {"a.md": "a\n", "b.md": "b\n"}):
            await asyncio.to_thread(place.system.forge.push, REPOSITORY, FIRST, files, by="alice")
        if type_:
            errors = [{"type": type_, "message": "Pull and try again."}]
            body = {"data": {"createCommitOnBranch": None}, "errors": errors}
            place.system.forge.fault(path=MUTATION, status=200, body=body)
        await workspace.write_file("b.md", "b\n")

    outcome = await run(place, work)
    assert (outcome.reason, outcome.exit_code) == (Reason.BRANCH_MOVED, 75), outcome.message
    assert len(commits(place)) == 3


@pytest.mark.parametrize(
    "unreadable", [0, 1], ids=["the branch shows it", "the branch cannot be read at first"]
)
async def test_a_lost_answer_makes_no_second_commit(make_place: MakePlace, unreadable: int) -> None:
    place = make_place("github", [])

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")
        place.system.forge.fault(method="POST", path=MUTATION, close="after")
        if unreadable:
            place.system.forge.fault(method="GET", path=FETCH, close="before", times=unreadable)

    outcome = await run(place, work)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert commits(place) == ["Say it better"]
    assert outcome.commit == place.system.git("rev-parse", FIRST).strip()


async def test_work_after_a_lost_answer_follows_the_commit_that_was_made(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_CHECKPOINT_PATIENCE", 0.1)  # meant to expire
    place = make_place("github", [])

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")
        lost = place.system.forge.fault(method="POST", path=MUTATION, close="after")
        away = place.system.forge.fault(method="GET", path=FETCH, close="before", times=None)
        await checkpoint()
        assert (lost.hits, away.hits > 0) == (1, True)
        away.end()
        await workspace.write_file("b.md", "b\n")

    outcome = await run(place, work)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert len(commits(place)) == 2
    assert [place.system.file_at(FIRST, name) for name in ("a.md", "b.md")] == ["a\n", "b\n"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo : > run.sh; chmod +x run.sh", "'run.sh' is an executable file"),
        ("head -c 3000 /dev/zero > large.bin; echo a > a.md", "'large.bin' has"),
    ],
)
async def test_work_that_github_cannot_sign_ends_with_the_file_and_the_setting(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.setattr(forge_commits, "MAX_CONTENT", 3000)
    place = make_place("github", [])

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.run(command)

    outcome = await run(place, work)
    assert outcome.reason is Reason.CHANGE_REFUSED, outcome
    assert said in outcome.message
    assert "consumer.commits.sign: github" in outcome.message
    assert FIRST not in place.branches()


async def test_a_branch_that_a_killed_attempt_left_empty_is_used(make_place: MakePlace) -> None:
    place = make_place("github", [])
    place.system.git("update-ref", f"refs/heads/{FIRST}", "main")

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")

    assert (await run(place, work)).reason is Reason.COMPLETED
    assert commits(place) == ["Say it better"]
