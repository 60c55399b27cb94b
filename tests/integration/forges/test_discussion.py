"""Reviews, threads on lines and failed checks of a change, as both forges show them."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.values import Checks, Review, Thread
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item

from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, git, git_url, plant_fault
from tests.integration.forges.conftest import World

BRANCH = "topic"
on_github = pytest.mark.parametrize("world", ["github"], indirect=True)
NUMBERED = "".join(f"line {number}\n" for number in range(1, 41))


class Author:
    """A person with a clone, who works on the change's branch."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tree = world.folder / "author"
        self._run("clone", "--quiet", git_url(world.server, "alice-token"), str(self.tree), cwd=world.folder)

    def _run(self, *arguments: str, cwd: Path | None = None) -> str:
        done = git(*arguments, cwd=cwd or self.tree)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        file = self.tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def push(self, message: str, branch: str = BRANCH) -> str:
        """Commit everything and push it; the commit."""
        self._run("add", "--all")
        self._run("commit", "--quiet", "--message", message)
        self._run("push", "--quiet", "origin", f"HEAD:{branch}")
        return self._run("rev-parse", "HEAD")

    def rename(self, old: str, new: str) -> None:
        self._run("mv", old, new)


async def opened(world: World) -> Item:
    change = await world.forge.open_change(world.issue, branch=BRANCH, base="main", title="Fix", body="")
    return world.item(ItemKind.CHANGE, change.number)


@pytest.fixture
async def author(world: World) -> Author:
    """With `numbers.txt` on main."""
    person = await asyncio.to_thread(Author, world)
    person.write("numbers.txt", NUMBERED)
    await asyncio.to_thread(person.push, "Numbers", "main")
    return person


async def changed(world: World, author: Author, **files: str) -> Item:
    """A change that replaces line 12, and has these files besides."""
    author.write("numbers.txt", NUMBERED.replace("line 12\n", "line twelve\n"))
    for path, text in files.items():
        author.write(path, text)
    await asyncio.to_thread(author.push, "Say twelve")
    return await opened(world)


async def threads(world: World, change: Item) -> list[Thread]:
    return list((await world.forge.discussion(change)).threads)


def start(world: World, change: Item, text: str = "Say a dozen.", **where: object) -> Any:
    place = {"path": "numbers.txt", "line": 12, **where}
    return world.server.start_thread(REPOSITORY, change.number, text, by="alice", **place)


async def test_threads_on_lines_and_files(world: World, author: Author) -> None:
    change = await changed(world, author)
    thread = start(world, change)
    world.server.run(lambda: world.server.sandbox.reviews.reply(thread, world.server.user("reader"), "Yes."))
    start(world, change, "Several.", start_line=10)
    start(world, change, "Removed.", removed=True)
    start(world, change, "The file.", line=None)
    done = start(world, change, "Done.", line=13)
    done.resolved_by = world.server.user("alice")

    on_line, several, removed, whole, resolved = await threads(world, change)

    assert (on_line.path, on_line.line, on_line.start_line) == ("numbers.txt", 12, None)
    assert (on_line.resolved, on_line.outdated, on_line.removed) == (False, False, False)
    assert on_line.hunk.startswith("@@ -9,7 +9,7 @@")
    assert on_line.hunk.endswith("\n-line 12\n+line twelve")
    assert [(comment.author, comment.body) for comment in on_line.comments] == [
        ("alice", "Say a dozen."),
        ("reader", "Yes."),
    ]
    assert (several.start_line, several.line) == (10, 12)
    assert (removed.line, removed.removed, removed.outdated) == (12, True, False)
    assert removed.hunk.endswith("\n-line 12")
    assert (whole.path, whole.line, whole.outdated, whole.hunk) == ("numbers.txt", None, False, "")
    assert (resolved.line, resolved.resolved) == (13, True)


async def test_after_a_push_threads_move_or_are_outdated(world: World, author: Author) -> None:
    change = await changed(world, author)
    start(world, change)
    start(world, change, line=20, start_line=19)
    author.write("numbers.txt", "line 0\n" + NUMBERED.replace("line 12\n", "a dozen\n"))
    await asyncio.to_thread(author.push, "Say a dozen")
    outdated, moved = await threads(world, change)
    assert (outdated.outdated, outdated.resolved) == (True, False)
    assert (outdated.path, outdated.line) == ("numbers.txt", 12), "as it was commented on"
    assert outdated.hunk.endswith("+line twelve")
    assert (moved.start_line, moved.line, moved.outdated) == (20, 21, False)


@on_github
async def test_a_drafted_comment_counts_from_when_its_review_was_submitted(
    world: World, author: Author
) -> None:
    change = await changed(world, author)
    drafted = world.server.sandbox.clock()
    world.server.set_clock(3600)
    start(world, change, drafted_at=drafted)
    [found] = await threads(world, change)
    assert found.comments[0].created_at >= drafted + timedelta(minutes=59)


@on_github
async def test_a_review_that_was_edited(world: World, author: Author) -> None:
    change = await changed(world, author)
    for text in ("First.", "Second."):
        world.server.review(REPOSITORY, change.number, "COMMENTED", text, by="reader")
    reviews = world.server.sandbox.reviews
    item = world.server.item(REPOSITORY, change.number, "change")
    world.server.set_clock(3600)
    world.server.run(lambda: reviews.edit_review(item, reviews.reviews(item)[1], "Rewritten."))
    first, second = (await world.forge.discussion(change)).reviews
    assert (first.updated_at, second.body) == (first.created_at, "Rewritten.")
    assert second.updated_at is not None
    assert second.updated_at >= second.created_at + timedelta(minutes=59)
    plant_fault(world.server, path=".*/graphql$", status=403)
    assert [review.updated_at for review in (await world.forge.discussion(change)).reviews] == [None, None]


async def test_a_thread_on_a_file_that_is_renamed_afterwards(world: World, author: Author) -> None:
    change = await changed(world, author)
    start(world, change)
    author.rename("numbers.txt", "count.txt")
    await asyncio.to_thread(author.push, "Rename")
    [found] = await threads(world, change)
    assert (found.path, found.previous_path, found.line) == ("count.txt", "numbers.txt", 12)
    # GitHub loses the line when a file is renamed, GitLab follows it.
    assert found.outdated is (world.platform is Platform.GITHUB)


async def test_reviews_with_their_verdicts(world: World, author: Author) -> None:
    change = await changed(world, author)
    world.server.review(REPOSITORY, change.number, "CHANGES_REQUESTED", "Not yet.", by="alice")
    world.server.review(REPOSITORY, change.number, "PENDING", "A draft.", by="alice")
    reviews = (await world.forge.discussion(change)).reviews
    if world.platform is Platform.GITLAB:  # its reviews are threads and ordinary comments
        assert reviews == ()
        return
    [found] = reviews
    at = found.created_at
    assert found == Review("alice", "changes requested", "Not yet.", at, updated_at=at)


async def test_of_many_threads_the_newest_are_read_oldest_first(world: World, author: Author) -> None:
    change = await changed(world, author)
    for number in range(105):
        start(world, change, f"number {number}")
    found = await threads(world, change)
    assert [thread.comments[0].body for thread in found] == [f"number {number}" for number in range(105)]
    assert {thread.resolved for thread in found} == {False}, "of all pages"


@on_github
async def test_what_graphql_does_not_say_is_not_known(world: World, author: Author) -> None:
    change = await changed(world, author)
    start(world, change)
    for fault in ({"status": 403}, {"body": {"errors": [{"message": "no"}]}, "status": 200}):
        plant_fault(world.server, path="/api/graphql", method="POST", **fault)
        [found] = await threads(world, change)
        assert (found.resolved, found.outdated, found.line) == (None, False, 12)


LOG = (
    "2026-01-02T03:04:05.1234567Z \x1b[36;1mpytest\x1b[0m\n"
    "2026-01-02T03:04:06.1234567Z E   assert 11 == 12\n"
    "2026-01-02T03:04:07.1234567Z ##[error]Process completed with exit code 1.\n"
    "2026-01-02T03:04:08.1234567Z Post job cleanup.\n"
)
TRACE = (
    "section_start:1767323045:step_script\r\x1b[0K\x1b[0;m$ pytest\n"
    "E   assert 11 == 12\n"
    "section_end:1767323046:step_script\r\x1b[0K\x1b[31;1mERROR: Job failed: exit code 1\x1b[0;m\n"
)


async def failing(world: World, author: Author, log: str) -> Item:
    change = await changed(world, author)
    sha = (await world.forge.read(change)).head_sha
    assert sha is not None
    world.server.add_check(REPOSITORY, sha, "lint", "success", log=b"fine")
    world.server.add_check(REPOSITORY, sha, "unit", "failure", log=log.encode())
    return change


async def checks(world: World, change: Item) -> Checks:
    return await world.forge.failed_checks(await world.forge.read(change))


async def test_the_failed_checks_with_the_ends_of_their_logs(world: World, author: Author) -> None:
    change = await failing(world, author, LOG if world.platform is Platform.GITHUB else TRACE)
    found = await checks(world, change)
    assert found.unreadable == ()
    [check] = found.failed
    if world.platform is Platform.GITHUB:
        assert (check.name, check.result) == ("unit", "failure")
        assert check.log == "pytest\nE   assert 11 == 12\n##[error]Process completed with exit code 1."
    else:
        assert (check.name, check.result, check.summary) == ("test / unit", "failed", "script_failure")
        assert check.log == "$ pytest\nE   assert 11 == 12\nERROR: Job failed: exit code 1"


@on_github
async def test_a_long_log_is_read_to_its_end_and_cut_at_its_start(world: World, author: Author) -> None:
    log = "".join(f"step {number}\n" for number in range(20_000)) + "the end"
    change = await failing(world, author, log)
    [check] = (await checks(world, change)).failed
    assert check.log.endswith("step 19999\nthe end")
    assert len(check.log) <= 64 * 1024


@on_github
async def test_statuses_of_other_programs(world: World, author: Author) -> None:
    change = await changed(world, author)
    sha = (await world.forge.read(change)).head_sha
    assert sha is not None
    world.server.add_check(REPOSITORY, sha, "jenkins", "error", summary="Build 7 broke")
    [check] = (await checks(world, change)).failed
    assert (check.name, check.result, check.summary, check.log) == ("jenkins", "error", "Build 7 broke", "")


async def test_checks_that_the_token_may_not_read_are_named(world: World, author: Author) -> None:
    change = await failing(world, author, LOG)
    pattern = ".*/(check-runs|actions/runs|status)$" if world.platform is Platform.GITHUB else ".*/jobs$"
    plant_fault(world.server, path=pattern, status=403, times=100)
    found = await checks(world, change)
    assert found.failed == ()
    assert [phrase for phrase in found.unreadable if "(403)" in phrase] == list(found.unreadable)
    assert len(found.unreadable) == (3 if world.platform is Platform.GITHUB else 1)


@on_github
async def test_our_token_does_not_follow_a_log_to_another_host(
    world: World, author: Author, caplog: pytest.LogCaptureFixture
) -> None:
    """The sandbox's store of logs is on another host and refuses whoever brings a token."""
    change = await failing(world, author, LOG)
    caplog.set_level(logging.DEBUG)
    [check] = (await checks(world, change)).failed
    assert "assert 11 == 12" in check.log
    assert BOT_TOKEN not in caplog.text
