"""Commits that GitHub makes at our request, and what it refuses."""

import asyncio
import logging
import subprocess

import pytest
from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
)
from coding_agent_forges.rest.signed_commits import FileChanges
from coding_agent_testbed.forge.git import branch_sha

from tests.fixtures.forge import BOT_TOKEN, READER_TOKEN, REPOSITORY, client
from tests.fixtures.github_graphql import validate_exchange
from tests.fixtures.github_openapi import validate_request, validate_response
from tests.integration.forges.conftest import BRANCH, World

on_github = pytest.mark.parametrize("world", ["github"], indirect=True)
A_FILE = FileChanges({"a.md": b"a\n"}, ())


def git(world: World, *arguments: str) -> bytes:
    path = str(world.server.repository(REPOSITORY).path)
    done = subprocess.run(["git", "--git-dir", path, *arguments], capture_output=True, timeout=60, check=True)
    return done.stdout


@on_github
async def test_a_commit_is_made_and_verified_with_the_files_and_the_message(world: World) -> None:
    base, commits = git(world, "rev-parse", "main").decode().strip(), world.forge.signed_commits(REPOSITORY)
    await commits.create_branch(BRANCH, base)
    await commits.create_branch(BRANCH, base)
    changes = FileChanges({"docs/ü.bin": b"\0\xff\n", "README.md": b"new\n"}, ("pricing/discount.py",))
    await commits.append(BRANCH, base, "The headline\n\nThe body\n\nCo-authored-by: A <a@b.c>\n", changes)

    assert git(world, "show", f"{BRANCH}:docs/ü.bin") == b"\0\xff\n"
    changed = git(world, "diff", "--name-status", "--no-renames", "-z", "main", BRANCH).decode().split("\0")
    assert changed == ["M", "README.md", "A", "docs/ü.bin", "D", "pricing/discount.py", ""]
    shown = git(world, "log", "-1", "--format=%P%n%an%n%cn <%ce>%n%B", BRANCH).decode().strip().splitlines()
    assert shown == [
        *[base, "Coding Agent", "GitHub <noreply@github.com>"],
        *["The headline", "", "The body", "", "Co-authored-by: A <a@b.c>"],
    ]
    with client(world.server, BOT_TOKEN) as api:
        branch = (await asyncio.to_thread(api.get, f"/repos/{REPOSITORY}/branches/{BRANCH}")).json()
    assert branch["commit"]["commit"]["verification"]["verified"]

    for sent in world.server.sandbox.requests:
        if sent.path == "/api/graphql":
            validate_exchange(sent.body, sent.response)
        elif sent.method == "POST":
            validate_request(sent.method, sent.path, sent.query, sent.body)
            validate_response(sent.method, sent.path, sent.status, sent.response)


@on_github
async def test_nothing_is_made_on_a_branch_that_moved_is_protected_or_is_absent(world: World) -> None:
    base, commits = git(world, "rev-parse", "main").decode().strip(), world.forge.signed_commits(REPOSITORY)
    with pytest.raises(ForgeNotFoundError, match="Could not resolve to a Ref"):
        await commits.append(BRANCH, base, "A", A_FILE)
    with pytest.raises(ForgeError, match=r"creating the branch .* \(422\): Object does not exist"):
        await commits.create_branch(BRANCH, "0" * 40)
    await commits.create_branch(BRANCH, base)
    await commits.append(BRANCH, base, "A", A_FILE)
    made = branch_sha(world.server.repository(REPOSITORY).path, BRANCH)
    with pytest.raises(ForgeUnavailableError, match="Expected branch to point to"):
        await commits.append(BRANCH, base, "A", A_FILE)
    assert made is not None
    with pytest.raises(ForgeRefusedError, match="The file changes cannot be made"):
        await commits.append(BRANCH, made, "B", FileChanges({}, ("absent.md",)))
    world.server.repository(REPOSITORY).protected.add(BRANCH)
    with pytest.raises(ForgeRefusedError, match=f"making a commit on the branch {BRANCH}"):
        await commits.append(BRANCH, made, "B", A_FILE)
    assert branch_sha(world.server.repository(REPOSITORY).path, BRANCH) == made


@on_github
async def test_a_commit_without_a_signature_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    answer = {"data": {"createCommitOnBranch": {"commit": {"oid": "c0ffee", "signature": None}}}}
    world.server.fault(path="/api/graphql", status=200, body=answer)
    await world.forge.signed_commits(REPOSITORY).append(BRANCH, "0" * 40, "A", A_FILE)
    assert "made the commit c0ffee without a signature" in caplog.text


@on_github
async def test_a_request_whose_answer_is_lost_is_not_sent_again(world: World) -> None:
    base, commits = git(world, "rev-parse", "main").decode().strip(), world.forge.signed_commits(REPOSITORY)
    await commits.create_branch(BRANCH, base)
    fault = world.server.fault(path="/api/graphql", close="after", times=5)
    with pytest.raises(ForgeUnavailableError):
        await commits.append(BRANCH, base, "A", A_FILE)
    assert fault.hits == 1
    assert git(world, "rev-list", "--count", f"main..{BRANCH}") == b"1\n"


@on_github
async def test_a_token_that_may_only_read_is_refused(world: World) -> None:
    base = git(world, "rev-parse", "main").decode().strip()
    await world.forge.signed_commits(REPOSITORY).create_branch(BRANCH, base)
    world.server.user("coding-agent-bot").token, world.server.user("reader").token = READER_TOKEN, BOT_TOKEN
    with pytest.raises(ForgeRefusedError, match="not accessible"):
        await world.forge.signed_commits(REPOSITORY).append(BRANCH, base, "A", A_FILE)


@pytest.mark.parametrize("world", ["gitlab"], indirect=True)
async def test_another_platform_signs_no_commits(world: World) -> None:
    with pytest.raises(SettingsError, match=r"set `consumer\.commits\.sign` to `key`"):
        world.forge.signed_commits(REPOSITORY)
