"""What the project asks of a forge, on both, for issues and changes: over real HTTP and real git."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.values import BranchFacts, CommitIdentity, Permission
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Origin
from coding_agent_forges.connect import connect_forge
from coding_agent_testbed.forge.git import set_branch
from coding_agent_testbed.forge.model import Role

from tests.fixtures.forge import REPOSITORY, commit, polled, push_fix
from tests.integration.forges.conftest import BRANCH, LABEL, World

both_kinds = pytest.mark.parametrize(
    ("world", "kind"), [("github", ItemKind.ISSUE), ("gitlab", ItemKind.CHANGE)], indirect=["world"]
)
both_kinds_the_other_way_round = pytest.mark.parametrize(
    ("world", "kind"), [("github", ItemKind.CHANGE), ("gitlab", ItemKind.ISSUE)], indirect=["world"]
)
MARKER = "<!-- coding-agent:status "


@both_kinds
async def test_labels_go_on_and_off_one_by_one(world: World, kind: ItemKind) -> None:
    item, forge = await world.some(kind), world.forge
    before = (await forge.read(item)).labels
    odd = "area/api ü?"
    await forge.add_label(item, LABEL)
    await forge.add_label(item, LABEL)
    await forge.add_label(item, odd)  # not known to the repository
    assert (await forge.read(item)).labels == before | {LABEL, odd}
    assert await forge.remove_label(item, odd) is True
    assert await forge.remove_label(item, odd) is False
    assert (await forge.read(item)).labels == before | {LABEL}


async def test_a_change_is_read_with_its_branch(world: World) -> None:
    details = await world.forge.read(await world.change())
    assert (details.title, details.body, details.open) == ("Fix it", "For you", True)
    assert (details.base_branch, details.head_branch, details.head_repository) == ("main", BRANCH, REPOSITORY)
    assert details.head_sha is not None
    assert len(details.head_sha) == 40


async def test_the_branch_of_a_fork_is_read_until_the_fork_is_gone(world: World) -> None:
    bot = await world.forge.whoami()
    fork = world.server.fork(REPOSITORY, "mallory", private=True, roles={bot: Role.READ})
    commit(fork.path, "main")
    number = world.server.open_change(REPOSITORY, "main", "main", source=fork)
    change = world.item(ItemKind.CHANGE, number)
    assert (await world.forge.read(change)).head_repository == "mallory/pricing"
    facts = await world.forge.branch_facts("mallory/pricing", "main")
    assert facts == BranchFacts("main", protected=False, fork_of=frozenset({REPOSITORY}))
    fork.roles.pop(bot)
    for _ in range(2):
        details = await world.forge.read(change)
        assert (details.head_repository, details.head_branch) == (None, "main")
        with pytest.raises(ForgeNotFoundError):
            await world.forge.branch_facts("mallory/pricing", "main")
        if not fork.deleted:
            world.server.delete("mallory/pricing")


async def test_which_branches_are_default_and_protected(world: World) -> None:
    path = world.server.repository(REPOSITORY).path
    set_branch(path, "release/1", "main")
    world.server.protect(REPOSITORY, "release/*")
    world.server.repository(REPOSITORY).default_branch = "trunk"
    expected = {"release/1": True, "main": False, "not/there": False}
    for branch, protected in expected.items():
        assert await world.forge.branch_facts(REPOSITORY, branch) == BranchFacts("trunk", protected), branch
    with pytest.raises(ForgeNotFoundError):
        await world.forge.branch_facts("acme/nothing", "main")


async def test_a_project_that_is_known_by_its_id_alone_is_located(world: World) -> None:
    by_id = world.issue.project_id is not None  # on GitHub the path is all that is known of an item
    bare = world.issue.model_copy(update={"repository": ""}) if by_id else world.issue
    assert (await world.forge.locate(bare)).repository == REPOSITORY
    assert (await world.forge.read(bare)).item.repository == REPOSITORY


@both_kinds_the_other_way_round
async def test_labeled_items_are_found_with_who_labeled_them_and_when(world: World, kind: ItemKind) -> None:
    item = await world.some(kind)
    began = datetime.now(UTC)
    assert await polled(world.forge) == []
    world.server.add_label(REPOSITORY, item.number, LABEL, kind=kind.value, by="reader")
    world.server.remove_label(REPOSITORY, item.number, LABEL, kind=kind.value, by="reader")
    world.server.add_label(REPOSITORY, item.number, LABEL, kind=kind.value, by="alice")
    world.server.add_label(REPOSITORY, item.number, "other", kind=kind.value, by="reader")
    [found] = await polled(world.forge)
    assert found.item == item
    assert found.user == "alice"
    assert found.trusted  # the repository is private, and the branch of the change is in it
    assert found.trigger.origin is Origin.POLL
    assert found.trigger.labeled_at is not None
    # Forges tell whole seconds or milliseconds.
    assert began - timedelta(seconds=2) < found.trigger.labeled_at < datetime.now(UTC) + timedelta(seconds=2)
    assert found.url.startswith(world.server.base_url)
    assert found.runner is None
    world.server.add_label(REPOSITORY, item.number, f"{LABEL}: codex", kind=kind.value, by="reader")
    [found] = await polled(world.forge)
    assert (found.user, found.runner) == ("reader", "codex"), "the newest of both labels"
    world.server.remove_label(REPOSITORY, item.number, LABEL, kind=kind.value, by="reader")
    [found] = await polled(world.forge)
    assert (found.user, found.runner) == ("reader", "codex")


async def test_a_label_has_no_time_if_the_forges_clock_was_set_back_before_it(world: World) -> None:
    world.server.set_clock(90.0)
    world.server.add_label(REPOSITORY, 1, LABEL, by="reader")
    [found] = await polled(world.forge)
    assert found.trigger.labeled_at is not None
    world.server.remove_label(REPOSITORY, 1, LABEL, by="reader")
    world.server.set_clock(0.0)
    world.server.add_label(REPOSITORY, 1, LABEL, by="alice")
    [found] = await polled(world.forge)
    assert (found.user, found.trigger.labeled_at) == ("alice", None)


async def test_a_change_with_the_agents_work_in_a_public_repository_names_its_issue(world: World) -> None:
    repository = world.server.repository(REPOSITORY)
    repository.private = False
    commit(repository.path, "coding-agent/issue-1")
    number = world.server.open_change(REPOSITORY, "coding-agent/issue-1", "main", by="reader")
    world.server.add_label(REPOSITORY, number, LABEL, kind="change", by="alice")
    world.server.add_label(REPOSITORY, 1, LABEL, by="alice")
    found = {entry.item.kind: entry for entry in await polled(world.forge)}
    assert not found[ItemKind.CHANGE].trusted
    assert found[ItemKind.CHANGE].answers == world.issue
    assert found[ItemKind.ISSUE].answers is None


@pytest.mark.parametrize(
    ("github", "gitlab", "count"),
    [
        pytest.param({"owner": "reader"}, {"assignee": "reader"}, 0, id="elsewhere"),
        pytest.param({"query": "author:@me"}, {"query": "no such words"}, 0, id="other items"),
        pytest.param(
            {"query": "author:alice"},
            {"project_id": ("acme/gone", REPOSITORY)},
            1,
            id="author; several projects, of which one is gone",
        ),
    ],
)
async def test_the_configured_scope_selects(
    world: World, github: dict[str, Any], gitlab: dict[str, Any], count: int
) -> None:
    world.server.add_label(REPOSITORY, 1, LABEL)
    name = world.platform.value
    section = world.settings.model_dump()[name] | {"github": github, "gitlab": gitlab}[name]
    section["personal_access_token"] = "bot-token"
    forge = connect_forge(Settings.model_validate({name: section}), world.platform)
    try:
        assert len(await polled(forge)) == count
    finally:
        await forge.aclose()


async def test_more_comments_than_fit_a_page_come_oldest_first_and_the_newest_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rest.comments", "github.client", "gitlab.client"):
        monkeypatch.setattr(f"coding_agent_forges.{module}.COMMENT_LIMIT", 120)
    for number in range(225):
        world.server.comment(REPOSITORY, 1, f"number {number}", by="alice")
    comments = (await world.forge.comments(world.issue)).values
    assert [comment.body for comment in comments] == [f"number {number}" for number in range(105, 225)]


async def test_what_people_may_do(world: World) -> None:
    expected = {
        "alice": Permission.WRITE,
        "coding-agent-bot": Permission.WRITE,
        "triager": Permission.TRIAGE,
        "reader": Permission.NONE,
        "nobody": Permission.NONE,
    }
    assert {user: await world.forge.permission(world.issue, user) for user in expected} == expected


async def test_what_is_not_there(world: World) -> None:
    gone = world.item(ItemKind.ISSUE, 4711)
    for asked in (
        world.forge.read(gone),
        world.forge.read(world.item(ItemKind.CHANGE, 4711)),
        world.forge.remove_label(gone, LABEL),
        world.forge.upsert_comment(gone, MARKER, MARKER),
    ):
        with pytest.raises(ForgeNotFoundError):
            await asked
    with pytest.raises(ForgeError) as caught:
        await world.forge.open_change(world.issue, branch="no-such-branch", base="main", title="x", body="y")
    assert caught.value.status in (400, 409, 422)


@both_kinds
async def test_our_one_comment_is_written_once_and_then_edited(world: World, kind: ItemKind) -> None:
    item, forge = await world.some(kind), world.forge
    # Somebody else quotes our marker: not ours to edit.
    world.server.comment(REPOSITORY, item.number, f"> {MARKER}x -->", kind=kind.value, by="alice")
    assert await forge.find_comment(item, MARKER) is None
    first = await forge.upsert_comment(item, MARKER, f"working\n{MARKER}1 -->")
    world.server.sandbox.requests.clear()
    assert await forge.upsert_comment(item, MARKER, f"working\n{MARKER}1 -->") == first
    assert {request.method for request in world.server.sandbox.requests} == {"GET"}
    second = await forge.upsert_comment(item, MARKER, f"done\n{MARKER}2 -->")
    assert second.id == first.id
    comments = (await forge.comments(item)).values
    assert [(comment.author, comment.body) for comment in comments] == [
        ("alice", f"> {MARKER}x -->"),
        (await forge.whoami(), f"done\n{MARKER}2 -->"),
    ]


async def test_one_change_for_a_branch_whatever_happens(world: World) -> None:
    assert await world.forge.find_change(world.issue, branch=BRANCH) is None
    change = await world.change()
    again = await world.forge.open_change(world.issue, branch=BRANCH, base="main", title="x", body="y")
    assert (again.number, again.created) == (change.number, False)
    found = await world.forge.find_change(world.issue, branch=BRANCH)
    assert found is not None
    assert found.number == change.number
    assert found.url.startswith(world.server.base_url)
    assert await world.forge.find_change(world.issue, branch="main") is None


async def test_two_who_open_it_at_once_get_the_same_change(world: World) -> None:
    await asyncio.to_thread(push_fix, world.server, world.folder, BRANCH)
    opened = await asyncio.gather(
        *(
            world.forge.open_change(world.issue, branch=BRANCH, base="main", title="Fix", body="")
            for _ in range(4)
        )
    )
    assert len({entry.number for entry in opened}) == 1
    assert sum(found.created for found in opened) == 1


async def test_the_identities_in_commits_are_the_forges_accounts(world: World) -> None:
    own, alice = world.server.user("coding-agent-bot"), world.server.user("alice")
    if world.platform is Platform.GITHUB:
        assert await world.forge.commit_identity() == CommitIdentity(
            own.name, f"{own.id}+coding-agent-bot@users.noreply.127.0.0.1"
        )
        private = f"{alice.id}+alice@users.noreply.127.0.0.1"
    else:
        assert await world.forge.commit_identity() == CommitIdentity(own.name, "coding-agent-bot@localhost")
        private = f"{alice.id}-alice@users.noreply.127.0.0.1"
    assert await world.forge.commit_identity_of("alice") == CommitIdentity(alice.name, private)
    assert await world.forge.commit_identity_of("nobody") is None


@both_kinds
async def test_a_comment_is_read_with_what_a_command_needs(world: World, kind: ItemKind) -> None:
    item, forge, store = await world.some(kind), world.forge, world.server.sandbox.store
    where, alice = (REPOSITORY, item.number), world.server.user("alice")
    written = str(world.server.comment(*where, "/retry\nnow", kind=kind.value, by="alice"))
    comment = world.server.item(*where, kind.value).comments[-1]
    world.server.run(lambda: store.react(comment, alice, "eyes"))
    read = await forge.read_comment(item, written)
    assert (read.id, read.author, read.body, read.edited) == (written, "alice", "/retry\nnow", False)
    assert read.created_at - comment.created_at < timedelta(seconds=1)
    other = item.model_copy(update={"number": world.server.open_issue(REPOSITORY, "Another", "")})
    elsewhere = str(world.server.comment(REPOSITORY, other.number, "/retry", by="alice"))
    for number in (elsewhere, "1"):
        with pytest.raises(ForgeNotFoundError):
            await forge.read_comment(item, number)
    repository = world.server.repository(REPOSITORY)
    comment.created_at -= timedelta(hours=1)
    world.server.run(
        lambda: store.edit_comment(repository, world.server.item(*where, kind.value), alice, comment, "/run")
    )
    # GitLab does not say whether it was: there only the author and maintainers may edit a comment.
    edited = (await forge.read_comment(item, written)).edited
    assert edited is (world.platform is Platform.GITHUB)


@both_kinds_the_other_way_round
async def test_a_reaction_of_our_own_is_put_on_once_and_found_again(world: World, kind: ItemKind) -> None:
    item, forge = await world.some(kind), world.forge
    where = (REPOSITORY, item.number, "change" if kind is ItemKind.CHANGE else "issue")
    comment = world.server.comment(where[0], where[1], "/retry", kind=where[2], by="alice")
    written = world.server.item(where[0], where[1], where[2]).comments[-1]
    world.server.run(lambda: world.server.sandbox.store.react(written, world.server.user("alice"), "eyes"))
    assert not await forge.has_reacted(item, str(comment)), "a person's reaction is not ours"
    await forge.react(item, str(comment))
    await forge.react(item, str(comment))
    assert await forge.has_reacted(item, str(comment))
    assert [(reaction.user.login, reaction.name) for reaction in written.reactions] == [
        ("alice", "eyes"),
        ("coding-agent-bot", "eyes"),
    ]
    with pytest.raises(ForgeNotFoundError):
        await forge.has_reacted(item, "1")
    with pytest.raises(ForgeNotFoundError):
        await forge.react(item, "1")


SECRET = "0123456789abcdef0123456789abcdef"
DATA = b"\x89PNG\r\n\x1a\n picture"


def attached(world: World) -> str:
    """The link that stands in a text after somebody attached a file."""
    if world.platform is Platform.GITHUB:
        world.server.sandbox.attachments["id-1"] = DATA
        return f"{world.server.base_url}/user-attachments/assets/id-1"
    world.server.sandbox.attachments[f"{SECRET}/a b.png"] = DATA
    return f"/uploads/{SECRET}/a%20b.png"


async def test_one_that_is_too_large_is_not(world: World) -> None:
    link = attached(world)
    assert await world.forge.attachment(world.issue, link, limit=len(DATA)) == DATA
    with pytest.raises(ForgeError, match="has more than"):
        await world.forge.attachment(world.issue, link, limit=len(DATA) - 1)


async def test_one_that_is_gone_says_so(world: World) -> None:
    link = attached(world)
    world.server.sandbox.attachments.clear()
    with pytest.raises(ForgeNotFoundError, match="reading an attachment of"):
        await world.forge.attachment(world.issue, link, limit=1000)


async def test_nothing_is_asked_for_a_link_that_leads_elsewhere(world: World) -> None:
    world.server.sandbox.requests.clear()
    for link in ("https://evil.example/a.png", f"{world.server.base_url}/_sandbox/state"):
        assert await world.forge.attachment(world.issue, link, limit=1000) is None
    assert not world.server.sandbox.requests


@pytest.mark.parametrize("world", ["github"], indirect=True)
async def test_a_used_up_hour_says_when_the_next_one_begins(world: World) -> None:
    world.server.sandbox.hourly_quota = 0
    with pytest.raises(ForgeUnavailableError, match="rate limit exceeded") as refused:
        await world.forge.read_state(world.issue)
    assert refused.value.retry_after is not None
    assert 3500 < refused.value.retry_after <= 3600
