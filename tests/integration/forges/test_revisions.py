"""What was changed on an item since a time, and by whom, as both forges show it."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from coding_agent_core.errors import ForgeNotFoundError, ForgeRefusedError, ForgeUnavailableError
from coding_agent_core.forge.values import Revised, Revision
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item, whole_second
from coding_agent_testbed.forge.model import Role

from tests.fixtures.forge import READER_TOKEN, REPOSITORY, git, git_url, plant_fault
from tests.integration.forges.conftest import BRANCH, World

both_kinds = pytest.mark.parametrize("kind", list(ItemKind))
on_github = pytest.mark.parametrize("world", ["github"], indirect=True)
on_gitlab = pytest.mark.parametrize("world", ["gitlab"], indirect=True)
UNKNOWN_PUSH = (Revised.BRANCH, "")


def now(world: World) -> datetime:
    return whole_second(world.server.sandbox.clock())


def later(world: World, seconds: float = 60) -> None:
    """Set the forge's clock further ahead, so that what follows is in another second."""
    ahead = world.server.sandbox.clock.ahead + timedelta(seconds=seconds)
    world.server.set_clock(ahead.total_seconds())


async def found(world: World, item: Item, since: datetime) -> set[tuple[Revised, str]]:
    revisions = await world.forge.revisions(await world.forge.read(item), since)
    assert all(revision.at is None or revision.at > since for revision in revisions)
    return {(revision.what, revision.user) for revision in revisions}


def push(world: World, token: str, *commands: str, repository: str = REPOSITORY) -> None:
    """Clone the change's branch, run git there, and push it."""
    tree = Path(world.folder) / f"pusher-{len(list(world.folder.iterdir()))}"
    clone = ("clone", "--quiet", "--branch", BRANCH, git_url(world.server, token, repository), str(tree))
    steps = [git(*clone, cwd=world.folder)]
    for command in commands:
        steps.append(git(*command.split(), cwd=tree))
    steps.append(git("push", "--quiet", "--force", "origin", BRANCH, cwd=tree))
    assert not any(step.returncode for step in steps), [step.stderr for step in steps]


COMMIT = "commit --quiet --allow-empty --message more"


@both_kinds
async def test_edits_are_shown_with_who_made_them(world: World, kind: ItemKind) -> None:
    item = await world.some(kind)
    number, kind_ = item.number, kind.value
    world.server.edit(REPOSITORY, number, title="Before", body="Before", kind=kind_, by="reader")
    later(world)
    world.server.edit(REPOSITORY, number, title="At the time", body="This too", kind=kind_, by="reader")
    since = now(world)
    assert await found(world, item, since) == set(), "an edit of the same second is not newer"
    later(world)
    world.server.edit(REPOSITORY, number, title="Renamed", kind=kind_, by="reader")
    world.server.edit(REPOSITORY, number, body="Edited", kind=kind_, by="triager")
    world.server.edit(REPOSITORY, number, body="Again", kind=kind_, by="alice")
    later(world)
    world.server.comment(REPOSITORY, number, "changed title from a to b", kind=kind_, by="reader")
    world.server.add_label(REPOSITORY, number, "bug", kind=kind_, by="reader")
    assert await found(world, item, since) == {
        (Revised.TITLE, "reader"),
        (Revised.TEXT, "triager"),
        (Revised.TEXT, "alice"),
    }
    assert await found(world, item, now(world)) == set()


@on_gitlab
async def test_a_ticked_task_may_hide_another_edit(world: World) -> None:
    world.server.edit(REPOSITORY, 1, body="- [ ] tests", by="alice")
    since = now(world)
    later(world)
    world.server.edit(REPOSITORY, 1, body="- [x] tests\nSend me the key.", by="reader")
    assert await found(world, world.issue, since) == {(Revised.TEXT, "reader")}


async def test_pushes_are_shown_with_who_made_them(world: World) -> None:
    change = await world.change()
    since = now(world)
    assert await found(world, change, since) == set()
    later(world)
    await asyncio.to_thread(push, world, "alice-token", COMMIT)
    assert await found(world, change, since) == {(Revised.BRANCH, "alice")}
    assert await found(world, change, now(world)) == set()


@on_gitlab
async def test_the_first_version_of_a_merge_request_is_not_a_push(world: World) -> None:
    """GitLab makes it a moment after the merge request, which may be opened with the label."""
    since = now(world)
    later(world)
    change = await world.change()
    assert await found(world, change, since) == set()


async def test_pushes_to_a_fork(world: World) -> None:
    fork = world.server.fork(REPOSITORY, "reader", roles={"coding-agent-bot": Role.READ})
    await asyncio.to_thread(_push_new, world, fork.full_name)
    number = world.server.open_change(REPOSITORY, BRANCH, "main", source=fork, by="reader")
    change = world.item(ItemKind.CHANGE, number)
    since = now(world)
    assert await found(world, change, since) == set()
    later(world)
    await asyncio.to_thread(push, world, READER_TOKEN, COMMIT, repository=fork.full_name)
    assert await found(world, change, since) == {(Revised.BRANCH, "reader")}


def _push_new(world: World, repository: str) -> None:
    tree = world.folder / "fork"
    steps = [
        git("clone", "--quiet", git_url(world.server, READER_TOKEN, repository), str(tree), cwd=world.folder)
    ]
    steps.append(git("switch", "--quiet", "--create", BRANCH, cwd=tree))
    steps.append(git(*COMMIT.split(), cwd=tree))
    steps.append(git("push", "--quiet", "origin", BRANCH, cwd=tree))
    assert not any(step.returncode for step in steps), [step.stderr for step in steps]


async def test_a_push_that_only_takes_commits_away(world: World) -> None:
    change = await world.change()
    await asyncio.to_thread(push, world, "alice-token", COMMIT)
    since = now(world)
    later(world)
    await asyncio.to_thread(push, world, "alice-token", "reset --quiet --hard HEAD~1")
    who = "alice" if world.platform is Platform.GITHUB else ""  # GitLab does not say who
    assert await found(world, change, since) == {(Revised.BRANCH, who)}


@on_github
async def test_pushes_that_the_token_may_not_read_are_by_nobody(world: World) -> None:
    change = await world.change()
    plant_fault(world.server, path=".*/activity$", status=403)
    assert await found(world, change, now(world)) == {UNKNOWN_PUSH}


@on_github
async def test_a_branch_whose_newest_push_is_not_listed_was_pushed_by_nobody(world: World) -> None:
    change = await world.change()
    details = await world.forge.read(change)
    await asyncio.to_thread(push, world, "alice-token", COMMIT)
    world.server.run(world.server.repository(REPOSITORY).pushes.pop)
    assert await world.forge.revisions(details, now(world)) == (), "the commit that was read is listed"
    assert await found(world, change, now(world)) == {UNKNOWN_PUSH}


@on_github
async def test_more_pushes_than_are_listed(world: World) -> None:
    change = await world.change()
    since = now(world)
    later(world)
    repository = world.server.repository(REPOSITORY)
    head = (await world.forge.read(change)).head_sha or ""
    bot = world.server.user("coding-agent-bot")
    for _ in range(100):
        world.server.run(
            lambda: world.server.sandbox.store.pushed(repository, bot, BRANCH, head, head, forced=False)
        )
    assert await found(world, change, since) == {(Revised.BRANCH, bot.login), UNKNOWN_PUSH}


@on_gitlab
async def test_a_commit_that_gitlab_has_not_examined_is_waited_for(world: World) -> None:
    change = await world.change()
    details = await world.forge.read(change)
    item = world.server.item(REPOSITORY, change.number, "change")
    examined = item.versions.pop()
    with pytest.raises(ForgeUnavailableError, match="has not examined the newest commit"):
        await world.forge.revisions(details, now(world))
    item.versions.append(examined)
    assert await world.forge.revisions(details, now(world)) == ()


async def test_a_forge_that_does_not_answer_is_not_an_item_without_edits(world: World) -> None:
    details = await world.forge.read(world.issue)
    with world.server.down(), pytest.raises(ForgeUnavailableError):
        await world.forge.revisions(details, now(world))


@on_github
@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("NOT_FOUND", ForgeNotFoundError),
        ("FORBIDDEN", ForgeRefusedError),
        ("RATE_LIMITED", ForgeUnavailableError),
        (None, ForgeUnavailableError),
    ],
)
async def test_what_graphqls_errors_mean(world: World, type_: str | None, expected: type[Exception]) -> None:
    answer = '{"data": {"repository": null}, "errors": [{"message": "No."%s}]}'
    body = answer % (f', "type": "{type_}"' if type_ else "")
    plant_fault(world.server, path=".*/graphql$", status=200, body=body, times=100)
    with pytest.raises(expected, match="No\\."):
        await world.forge.revisions(await world.forge.read(world.issue), now(world))


@on_github
@pytest.mark.parametrize(
    ("actor", "login"),
    [
        ('{"__typename": "User", "login": "mallory"}', "mallory"),
        ('{"__typename": "Bot", "login": "mallory"}', "mallory[bot]"),
        ('{"__typename": "Mannequin", "login": "alice"}', ""),
        ("null", ""),
    ],
)
async def test_only_accounts_of_people_and_apps_have_a_login(world: World, actor: str, login: str) -> None:
    item = (
        '{"lastEditedAt": "2030-01-01T00:00:00Z", "editor": %s, "userContentEdits": null,'
        ' "timelineItems": {"nodes": []}}'
    )
    body = '{"data": {"repository": {"issue": %s}}}' % (item % actor)
    plant_fault(world.server, path=".*/graphql$", status=200, body=body)
    revisions = await world.forge.revisions(await world.forge.read(world.issue), now(world))
    assert revisions == (Revision(Revised.TEXT, login, datetime.fromisoformat("2030-01-01T00:00:00Z")),)
