"""The repository is renamed, or given to another owner, before an attempt or while it works."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent_interface import Brief, OnStep, Step
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason

from tests.fixtures.github_app import create_app, install, key_pair
from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.place import AttemptPlace

FIRST = "coding-agent/issue-1"
RENAMED, MOVED = "acme/costs", "other/costs"
CHECKPOINTS = {"checkpoint_interval": 1e-9}

Work = Callable[[Workspace, Callable[[], Awaitable[None]]], Awaitable[None]]


@dataclass
class Worker:
    """An agent that does this work. The work's second argument pushes what was done so far."""

    does: Work

    async def work(self, brief: Brief, workspace: Workspace, *, on_step: OnStep, **_: object) -> Outcome:
        async def checkpoint() -> None:
            await on_step(Step(1, "tool", "worked"))

        await self.does(workspace, checkpoint)
        return Outcome(reason=Reason.COMPLETED, message="Done.", summary="Say it better.")


async def run(place: AttemptPlace, given: Any, work: Work, **sections: Any) -> Outcome:
    return await place.run(given, make_agent=lambda *_: Worker(work), **sections)


def change_of(place: AttemptPlace, name: str, number: int) -> str:
    """The address of a change below the repository's present name."""
    word = "pull" if place.system.flavour == "github" else "-/merge_requests"
    return f"{place.system.forge.base_url}/{name}/{word}/{number}"


@pytest.mark.parametrize(("flavour", "name"), [("github", RENAMED), ("github", MOVED), ("gitlab", MOVED)])
@pytest.mark.parametrize("when", ["before", "meanwhile", "after a push"])
async def test_an_attempt_goes_on_under_the_new_name(
    make_place: MakePlace, flavour: str, name: str, when: str
) -> None:
    place = make_place(flavour, [])
    forge, given, next_run = place.system.forge, place.given(), place.given(run=2)

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")
        if when == "after a push":
            await checkpoint()
        if when != "before":
            await asyncio.to_thread(forge.rename, REPOSITORY, name)
        await checkpoint()
        await workspace.write_file("b.md", "b\n")

    if when == "before":
        forge.rename(REPOSITORY, name)
    outcome = await run(place, given, work, consumer=CHECKPOINTS)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    [change] = forge.changes(name)
    assert (change.open, change.head) == (True, FIRST)
    assert outcome.change_url == change_of(place, name, change.number)
    assert set(forge.pushed_branches(name)) == {FIRST}

    again = await run(place, next_run, work_nothing)
    assert again.reason is Reason.COMPLETED, again.message
    assert len(forge.changes(name)) == 1, "the next run finds the change"


async def work_nothing(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
    """The earlier work is enough."""


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_the_work_for_a_change_goes_to_its_branch_under_the_new_name(
    make_place: MakePlace, flavour: str, when: str
) -> None:
    place = make_place(flavour, [])
    forge = place.system.forge
    forge.push(REPOSITORY, "fix", {"a.md": "a\n"}, by="alice")
    number = forge.open_change(REPOSITORY, "fix", "main", title="Fix it", by="alice")
    given = place.given_change(number)

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        if when == "meanwhile":
            await asyncio.to_thread(forge.rename, REPOSITORY, MOVED)
        await workspace.write_file("b.md", "b\n")

    if when == "before":
        forge.rename(REPOSITORY, MOVED)
    outcome = await run(place, given, work)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert forge.pushed_branches(MOVED)[-1] == "fix"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("chosen", [False, True], ids=["looked up", "by installation_id"])
async def test_the_token_of_an_app_is_for_the_repository_under_its_new_name(
    make_place: MakePlace, tmp_path: Path, when: str, chosen: bool
) -> None:
    place = make_place("github", [])
    forge, given = place.system.forge, place.given()
    app = create_app(forge)
    installation = install(forge, app)
    (tmp_path / "key.pem").write_text(key_pair()[0])

    async def work(workspace: Workspace, checkpoint: Callable[[], Awaitable[None]]) -> None:
        await workspace.write_file("a.md", "a\n")
        if when == "meanwhile":
            await asyncio.to_thread(forge.rename, REPOSITORY, RENAMED)

    if when == "before":
        forge.rename(REPOSITORY, RENAMED)
    settings: dict[str, Any] = {"app_id": app.id, "private_key_file": str(tmp_path / "key.pem")}
    if chosen:
        settings["installation_id"] = installation.id
    github = {"app": settings, "personal_access_token": None}
    signed = {"commits": {"sign": "github"}}
    outcome = await run(place, given, work, github=github, consumer=signed)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    assert len(forge.changes(RENAMED)) == 1


async def test_another_repository_under_the_old_name_is_not_taken_for_the_renamed_one(
    make_place: MakePlace,
) -> None:
    """GitLab's tasks name the project by its number too, so it shows."""
    place = make_place("gitlab", [])
    forge, given = place.system.forge, place.given()
    forge.rename(REPOSITORY, RENAMED)
    renamed = forge.repository(RENAMED)
    other = replace(renamed, id=renamed.id + 9000, owner="acme", name="pricing")
    forge.run(lambda: forge.sandbox.store.repositories.append(other))
    outcome = await run(place, given, work_nothing)
    assert outcome.reason is Reason.ITEM_GONE, outcome.message
    assert REPOSITORY in outcome.message
