"""Our client of Gitea with a real Gitea: what it writes is there, and what people do is read."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.forge.changes import ChangeEventKind, CheckConclusion, Mergeability, ReviewVerdict
from coding_agent_core.forge.values import (
    CloneSource,
    CommitIdentity,
    CommitState,
    CommitStatus,
    Permission,
    Revised,
)
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.item_history import ItemAction, Position
from coding_agent_core.task.labels import wishes
from coding_agent_core.task.model import Item
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.setup import NewLabel, setup_of
from coding_agent_testbed.until import until_async

from tests.fixtures.forge import polled

BOT, PROCESSING, FAILED = "coding agent", "coding agent processing", "coding agent failed"
RACED = "coding agent raced"
FILE = "pricing/discount.py"
MARKER = "<!-- coding-agent:status "
AUTHOR = CommitIdentity("coding agent", "agent@example.com")
START = datetime(2020, 1, 1, tzinfo=UTC)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def sample(gitea_sample: Any, gitea: Any) -> Any:
    """The sample, with a bot that may ask what people may do."""
    with gitea.api() as admin:
        admin.add_collaborator(gitea_sample.repository, gitea_sample.bot.login, "admin")
    return gitea_sample


@pytest.fixture
def alice(sample: Any, gitea: Any) -> Iterator[Any]:
    """The API as the maintainer sees it."""
    with type(gitea.api())(sample.api_url, sample.maintainer.token) as api:
        yield api


@pytest.fixture
async def forge(sample: Any) -> AsyncIterator[Forge]:
    owner = sample.repository.split("/")[0]
    section = {"api_url": sample.url, "personal_access_token": sample.bot.token, "owner": owner}
    found = connect_forge(Settings.model_validate({"gitea": section}), Platform.GITEA)
    yield found
    await found.aclose()


def item(sample: Any, number: int, kind: ItemKind = ItemKind.ISSUE) -> Item:
    return Item(
        platform=Platform.GITEA,
        host=host_of(sample.url),
        repository=sample.repository,
        kind=kind,
        number=number,
    )


async def test_a_label_is_found_after_more_entries_than_a_page_has(
    sample: Any, alice: Any, forge: Forge
) -> None:
    number = alice.create_issue(sample.repository, "A long talk")
    for remark in range(60):
        alice.comment(sample.repository, number, f"Remark {remark}")
    alice.add_label(sample.repository, number, BOT)
    applied = await forge.label_application(item(sample, number))
    assert applied is not None
    assert (applied.user, applied.label) == (sample.maintainer.login, BOT)
    assert len((await forge.comments(item(sample, number))).values) == 60


async def test_a_label_is_found_behind_a_long_review(
    sample: Any, gitea: Any, alice: Any, forge: Forge
) -> None:
    """The timeline has comments on lines, and leaves them out after it was cut into pages."""
    repository = sample.repository
    alice.commit(repository, "long", {"long.txt": "line\n" * 130}, "Write much", onto="main")
    number = alice.create_pull(repository, "long", "A long change")
    lines = [("long.txt", line, f"Remark {line}") for line in range(1, 131)]
    with type(gitea.api())(sample.api_url, sample.bot.token) as bot:
        bot.review(repository, number, "COMMENT", "Much to say", lines)
    alice.comment(repository, number, "Indeed")
    alice.add_label(repository, number, BOT)
    change = item(sample, number, ItemKind.CHANGE)
    applied = await forge.label_application(change)
    assert applied is not None
    assert (applied.user, applied.label) == (sample.maintainer.login, BOT)
    snapshot = await forge.snapshot(change)
    assert sum(len(thread.remarks) for thread in snapshot.threads) == 130
    assert [one.body for one in snapshot.comments] == ["Indeed"]
    assert not snapshot.left_out


async def test_all_labels_and_webhooks_are_listed(sample: Any, gitea: Any, alice: Any, forge: Forge) -> None:
    before = len(await setup_of(forge).labels(sample.repository))
    with gitea.api() as admin:
        for number in range(45):
            admin.create_label(sample.repository, f"label {number}")
        for number in range(40):
            admin.add_hook(sample.repository, f"https://hook.example/{number}", "secret")
    assert len(await setup_of(forge).labels(sample.repository)) == before + 45
    assert len(await setup_of(forge).webhooks(sample.repository)) >= 40


async def test_labels_comments_and_people(sample: Any, alice: Any, forge: Forge) -> None:
    before = datetime.now(UTC).replace(microsecond=0)  # Gitea's times are whole seconds
    number = alice.create_issue(sample.repository, "Prices are wrong", "by one", [BOT])
    issue = item(sample, number)

    async def listed() -> Any:
        return [one for one in await polled(forge) if one.item == issue]

    [request] = await until_async("it is listed", listed, interval=0.2)
    assert (request.user, request.title) == (sample.maintainer.login, "Prices are wrong")
    state = await forge.read_state(issue)
    assert request.trigger.labeled_at is not None
    assert state.updated_at is not None
    assert before <= request.trigger.labeled_at <= datetime.now(UTC)
    assert before <= state.updated_at <= datetime.now(UTC)

    await forge.add_label(issue, PROCESSING)
    assert await forge.remove_label(issue, BOT)
    assert not await forge.remove_label(issue, BOT)
    await forge.add_label(issue, FAILED)  # no such label yet
    assert (await forge.read_state(issue)).labels == {PROCESSING, FAILED}
    alice.add_label(sample.repository, number, BOT)
    alice.clear_labels(sample.repository, number)
    history = (await forge.label_history(issue, START)).values
    assert [(one.user == sample.bot.login, one.label, one.added) for one in history if one.label == BOT] == [
        (False, BOT, False),
        (False, BOT, True),
        (True, BOT, False),
        (False, BOT, True),
    ]

    first = await forge.upsert_comment(issue, MARKER, f"{MARKER}-->\nWorking")
    again = await forge.upsert_comment(issue, MARKER, f"{MARKER}-->\nDone")
    assert (again.id, again.url) == (first.id, first.url)
    said = str(alice.comment(sample.repository, number, "/retry"))
    assert [one.body.splitlines()[-1] for one in (await forge.comments(issue)).values] == ["Done", "/retry"]
    read = await forge.read_comment(issue, said)
    assert (read.author, read.body, read.edited) == (sample.maintainer.login, "/retry", False)
    another = item(sample, alice.create_issue(sample.repository, "Another", ""))
    with pytest.raises(ForgeNotFoundError):
        await forge.read_comment(another, said)
    assert not await forge.has_reacted(issue, said)
    await forge.react(issue, said)
    await forge.react(issue, said)
    assert await forge.has_reacted(issue, said)

    # Four programs that need the same new label at the same moment.
    await asyncio.gather(*(forge.add_label(issue, RACED) for _ in range(4)))
    names = [one["name"] for one in alice.call("GET", f"/repos/{sample.repository}/labels", limit=50)]
    assert names.count(RACED) == 1
    assert RACED in (await forge.read_state(issue)).labels

    rights = [sample.maintainer.login, sample.stranger.login, "nobody-of-this-name"]
    found = [await forge.permission(issue, login) for login in rights]
    assert found == [Permission.WRITE, Permission.NONE, Permission.NONE]
    facts = await forge.branch_facts(sample.repository, "main")
    assert (facts.default, facts.protected) == ("main", False)
    assert not (await forge.branch_facts(sample.repository, "coding-agent/none")).protected
    assert (await forge.commit_identity()).email
    other = await forge.commit_identity_of(sample.stranger.login)
    assert other is not None
    assert other.email == f"{sample.stranger.id}+{sample.stranger.login}@noreply.127.0.0.1"

    details = await forge.read(issue)
    assert await forge.revisions(details, START) == ()
    alice.call("PATCH", f"/repos/{sample.repository}/issues/{number}", {"title": "New", "body": "by two"})
    changed = await forge.revisions(await forge.read(issue), START)
    assert {(one.what, one.user) for one in changed} == {
        (Revised.TITLE, sample.maintainer.login),
        (Revised.TEXT, ""),
    }


async def test_a_change_its_review_its_checks_and_a_conflict(
    sample: Any, alice: Any, forge: Forge, tmp_path: Path
) -> None:
    repository, branch = sample.repository, "coding-agent/issue-1"
    issue = item(sample, alice.create_issue(repository, "Prices are wrong"))
    source = await forge.clone_source(repository)
    url = source.url.replace("://", f"://{source.username}:{source.token}@")

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=Bot", "-c", "user.email=bot@example.net", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    git("clone", "--quiet", url, ".")
    git("switch", "--quiet", "-c", branch)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text("# ours\n" + text)
    git("commit", "--quiet", "-am", "Fix it")
    git("push", "--quiet", "origin", branch)
    head = git("rev-parse", "HEAD")

    assert await forge.find_change(issue, branch=branch) is None
    opened = await forge.open_change(
        issue, branch=branch, base="main", title="Fix it", body="For you", draft=True
    )
    assert opened.created
    assert (await forge.open_change(issue, branch=branch, base="main", title="x", body="")).created is False
    change = item(sample, opened.number, ItemKind.CHANGE)
    draft = await forge.snapshot(change)
    assert (draft.draft, draft.title, draft.mergeability) == (True, "Fix it", Mergeability.NOT_SHOWN)
    await forge.mark_ready(change)
    await forge.mark_ready(change)
    details = await forge.read(change)
    assert (details.title, details.head_branch, details.head_sha) == ("Fix it", branch, head)
    assert details.head_repository == repository
    assert await forge.revisions(details, START) == await forge.revisions(details, START)

    alice.review(repository, change.number, "REQUEST_CHANGES", "Please test it", [(FILE, 1, "Why this?")])
    status = CommitStatus("coding-agent", CommitState.SUCCESS, "Done", "https://example.net/")
    await forge.set_status(change, head, status)
    alice.set_status(repository, head, "failure", "ci/unit", "3 failed")

    async def merges() -> Any:
        found = await forge.snapshot(change)
        return found if found.mergeability is Mergeability.MERGES else None

    snapshot = await until_async("it merges", merges, interval=0.2)
    assert (snapshot.head_commit, snapshot.own.login) == (head, sample.bot.login)
    [review] = snapshot.reviews
    assert (review.verdict, review.body) == (ReviewVerdict.CHANGES_REQUESTED, "Please test it")
    [thread] = snapshot.threads
    assert (thread.path, thread.line, thread.resolved) == (FILE, 1, False)
    assert [one.review for one in thread.remarks] == [review.id]
    checks = {one.name: one.conclusion for one in snapshot.checks}
    assert checks == {"coding-agent": CheckConclusion.SUCCESS, "ci/unit": CheckConclusion.FAILURE}
    assert [one.summary for one in (await forge.failed_checks(details)).failed] == ["3 failed"]
    discussion = await forge.discussion(change)
    assert [(one.path, one.resolved, one.comments[0].body) for one in discussion.threads] == [
        (FILE, False, "Why this?")
    ]

    await forge.reply(change, thread, "Because")
    await forge.resolve(change, thread)
    await forge.resolve(change, thread)
    await forge.request_review(change, [sample.maintainer.login])
    await forge.request_review(change, [sample.maintainer.login])
    alice.add_label(repository, change.number, BOT)
    answered = await forge.snapshot(change)
    assert [(one.body, one.review) for one in answered.threads[0].remarks] == [
        ("Why this?", review.id),
        ("Because", review.id),
    ]
    assert answered.threads[0].resolved
    assert [one.login for one in answered.requested_reviewers] == [sample.maintainer.login]
    kinds = [one.kind for one in answered.events]
    assert ChangeEventKind.LABELED in kinds
    assert kinds.count(ChangeEventKind.READY) == 1
    assert not answered.draft

    async def indexed() -> Any:
        return [one for one in (await forge.open_changes()).snapshots if one.item == change]

    assert (await until_async("it is indexed", indexed, interval=0.2))[0].head_commit == head
    alice.commit(repository, "main", {FILE: "# theirs\n" + text}, "Change the same line")

    async def conflicts() -> Any:
        return (await forge.snapshot(change)).mergeability is Mergeability.CONFLICT

    assert await until_async("it conflicts", conflicts, interval=0.2)
    alice.commit(repository, branch, {"pushed.txt": "by a person\n"}, "Push")
    pushed = await until_async("who pushed", lambda: _pushed(forge, change), interval=0.2)
    assert pushed == sample.maintainer.login


async def _pushed(forge: Forge, change: Item) -> str:
    found = await forge.revisions(await forge.read(change), START)
    people = [one.user for one in found if one.what is Revised.BRANCH]
    return people[-1] if len(people) > 1 else ""


async def test_without_the_right_of_an_administrator_the_error_says_what_is_missing(
    gitea_sample: Any, forge: Forge, gitea: Any
) -> None:
    with gitea.api() as admin:
        admin.add_collaborator(gitea_sample.repository, gitea_sample.bot.login, "write")
    with pytest.raises(ForgeError, match="admin") as caught:
        await forge.permission(item(gitea_sample, 1), gitea_sample.maintainer.login)
    assert caught.value.status == 403


async def test_a_repository_is_set_up_for_the_agent(sample: Any, gitea: Any, forge: Forge) -> None:
    setup = setup_of(forge)
    token = await setup.token()
    assert (token.login, token.rights.lacks) == (sample.bot.login, ())
    facts = await setup.repository(sample.repository)
    assert (facts.path, facts.lacks, facts.may_add_webhook) == (sample.repository, (), True)
    label = NewLabel("coding agent: codex", "1d76db", "Codex shall work on this")
    await asyncio.gather(*(setup.create_label(sample.repository, label) for _ in range(4)))
    with gitea.api() as admin:
        made = admin.call("GET", f"/repos/{sample.repository}/labels", limit=50)
    [kept] = [one for one in made if one["name"] == label.name]
    assert (kept["color"], kept["description"]) == (label.color, label.description)
    assert label.name in await setup.labels(sample.repository)
    await setup.create_webhook(sample.repository, f"{sample.url}/webhook/gitea", "a secret")
    [hook] = await setup.webhooks(sample.repository)
    assert (hook.url, hook.active) == (f"{sample.url}/webhook/gitea", True)
    with gitea.api() as admin:
        admin.add_collaborator(sample.repository, sample.bot.login, "read")
    lacks = (await setup.repository(sample.repository)).lacks
    assert [lack.split(":")[0] for lack in lacks] == [
        "the account may not push",
        "the account is no administrator, so it cannot read what other people may do",
    ]


async def test_a_repository_that_is_renamed_is_followed(
    sample: Any, alice: Any, forge: Forge, gitea: Any, tmp_path: Path
) -> None:
    number = alice.create_issue(sample.repository, "A bug", labels=[BOT])
    issue = item(sample, number)
    with gitea.api() as admin:
        admin.call("PATCH", f"/repos/{sample.repository}", {"name": "costs"})
    renamed = sample.repository.replace("/pricing", "/costs")

    async def credentials(refused: str, /, *, redirected: bool = False) -> CloneSource:
        return await forge.clone_source(sample.repository, refused, redirected=redirected)

    async def push_check(branch: str) -> None:
        await forge.branch_facts(sample.repository, branch)

    clone = await BareClone.clone(
        credentials, tmp_path / "clone", base="main", branch="coding-agent/issue-1", push_check=push_check
    )
    await clone.commit(b"diff --git a/new b/new\nnew file mode 100644\n", "Add a file", AUTHOR)
    await clone.push()
    assert (await forge.read(issue)).item.repository == renamed
    await forge.add_label(issue, PROCESSING)
    assert await forge.remove_label(issue, BOT)
    first = await forge.upsert_comment(issue, MARKER, f"{MARKER}-->\nWorking")
    assert (await forge.upsert_comment(issue, MARKER, f"{MARKER}-->\nDone")).id == first.id
    assert (await forge.read_state(item_in(issue, renamed))).labels == {PROCESSING}
    change = await forge.open_change(
        issue, branch="coding-agent/issue-1", base="main", title="Add a file", body=""
    )
    assert f"/{renamed}/" in change.url


async def test_a_deactivated_account_has_no_rights(sample: Any, alice: Any, forge: Forge, gitea: Any) -> None:
    issue = item(sample, alice.create_issue(sample.repository, "A bug"))
    login = sample.maintainer.login
    assert await forge.permission(issue, login) is Permission.WRITE
    assert await forge.permission(issue, sample.admin.login) is Permission.WRITE
    with gitea.api() as admin:
        admin.call("PATCH", f"/admin/users/{login}", {"active": False, "login_name": login, "source_id": 0})
    assert await forge.permission(issue, login) is Permission.NONE


def item_in(issue: Item, repository: str) -> Item:
    return issue.model_copy(update={"repository": repository})


async def test_events_are_in_the_order_of_their_numbers_also_for_a_label_given_at_creation(
    sample: Any, alice: Any, forge: Forge
) -> None:
    repository = sample.repository
    number = alice.create_issue(repository, "Labeled at once", labels=[BOT])
    await forge.add_label(item(sample, number), PROCESSING)
    alice.clear_labels(repository, number)
    alice.add_label(repository, number, BOT)
    alice.set_state(repository, number, "closed")
    alice.set_state(repository, number, "open")
    history = await forge.item_history(item(sample, number), None)
    assert [event.id for event in history.events] == sorted({event.id for event in history.events})
    person, bot = sample.maintainer.login, sample.bot.login
    assert [(event.action, event.user) for event in history.events] == [
        (ItemAction.LABELED, person),
        (ItemAction.LABELED, bot),
        (ItemAction.UNLABELED, person),
        (ItemAction.UNLABELED, person),
        (ItemAction.LABELED, person),
        (ItemAction.CLOSED, person),
        (ItemAction.REOPENED, person),
    ]
    assert (history.present, history.open, history.own_login) == (frozenset({BOT}), True, bot)
    found = wishes(history, Position((history.events[1].id,)))
    assert found.withdrawn == Position((history.events[3].id,))
    assert found.application is None, "the issue was closed after that"


async def test_the_events_of_a_deleted_label_are_gone(sample: Any, alice: Any, forge: Forge) -> None:
    repository = sample.repository
    label = "coding agent: codex"
    alice.create_label(repository, label)
    number = alice.create_issue(repository, "A label that is deleted", labels=[label])
    assert [event.label for event in (await forge.item_history(item(sample, number), None)).events] == [label]
    alice.call("DELETE", f"/repos/{repository}/labels/{alice.labels(repository)[label]}")
    history = await forge.item_history(item(sample, number), None)
    assert (history.events, history.present) == ((), frozenset())


async def test_a_merged_pull_request_was_closed(sample: Any, alice: Any, forge: Forge) -> None:
    repository = sample.repository
    alice.commit(repository, "merged", {"merged.txt": "line\n"}, "Write", onto="main")
    number = alice.create_pull(repository, "merged", "A change to merge")
    alice.add_label(repository, number, BOT)
    alice.merge(repository, number)
    history = await forge.item_history(item(sample, number, ItemKind.CHANGE), None)
    assert [event.action for event in history.events] == [ItemAction.LABELED, ItemAction.CLOSED]
    assert not history.open
