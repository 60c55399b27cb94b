"""Repositories in which no attempt can work: the person is told so at once, and why."""

import asyncio
import shutil
import subprocess

import pytest
from coding_agent_core.task.reasons import Reason

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
async def test_an_archived_repository(make_place: MakePlace, flavour: str) -> None:
    place = make_place(flavour, [])
    given = place.given()
    place.system.forge.repository(REPOSITORY).archived = True
    outcome = await place.run(given)
    assert outcome.reason in (Reason.PUSH_NOT_ALLOWED, Reason.FORGE_REFUSED), "another attempt would not help"
    assert "is archived" in outcome.message
    assert place.system.model.requests == []


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
async def test_an_empty_repository(make_place: MakePlace, flavour: str) -> None:
    place = make_place(flavour, [])
    for branch in place.branches():
        place.system.git("update-ref", "-d", f"refs/heads/{branch}")
    outcome = await place.run(place.given())
    assert (outcome.reason, outcome.exit_code) == (Reason.CANNOT_BE_DONE, 65), outcome.message
    assert "has no commit yet. Push a first commit" in outcome.message


async def test_a_repository_with_ids_of_sha_256(make_place: MakePlace) -> None:
    place = make_place("github", [])
    bare = place.system.forge.repository(REPOSITORY).path

    def replace() -> None:
        shutil.rmtree(bare)
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(
            [*git, "init", "-q", "--bare", "-b", "main", "--object-format=sha256", bare], check=True
        )
        subprocess.run([*git, "-C", bare, "config", "http.receivepack", "true"], check=True)
        tree = subprocess.run([*git, "-C", bare, "mktree"], input=b"", capture_output=True, check=True)
        tree_id = tree.stdout.decode().strip()
        made = subprocess.run(
            [*git, "-C", bare, "commit-tree", "-m", "x", tree_id], capture_output=True, check=True
        )
        commit = made.stdout.decode().strip()
        subprocess.run([*git, "-C", bare, "update-ref", "refs/heads/main", commit], check=True)

    given = place.given()
    await asyncio.to_thread(replace)
    outcome = await place.run(given)
    assert (outcome.reason, outcome.exit_code) == (Reason.CANNOT_BE_DONE, 65), outcome.message
    assert "only repositories with SHA-1 ids are supported" in outcome.message
