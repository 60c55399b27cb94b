"""What the client makes of Gitea's answers, in the shapes of Gitea 1.27."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from coding_agent_core.errors import ForgeError, ForgeListTooLongError
from coding_agent_core.forge.changes import (
    ChangeEventKind,
    ChangeSnapshot,
    CheckConclusion,
    Mergeability,
    Part,
    ReviewVerdict,
)
from coding_agent_core.forge.values import ItemDetails, Permission, Revised
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.rounds.drafts import with_draft
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.round_cause import Work
from coding_agent_forges.rest.setup import setup_of

from tests.fixtures.forge import polled
from tests.unit.core_rounds.making import POLICY
from tests.unit.forges.wire import ITEMS, TOKEN, Wire, answer

ISSUE = ITEMS[Platform.GITEA]
PULL = ISSUE.model_copy(update={"kind": ItemKind.CHANGE, "number": 8})
REPO = "/repos/acme/pricing"
HEAD, BASE = "a" * 40, "b" * 40
BOT = "coding agent"
ALICE, OWN, EVE = {"id": 2, "login": "alice"}, {"id": 1, "login": "bot"}, {"id": 3, "login": "eve"}
PLACES: dict[str, Any] = {"/user": OWN}


def at(minute: int) -> str:
    return f"2026-11-25T11:{minute:02}:00Z"


def entry(kind: str, minute: int, user: Any = ALICE, body: str = "", **more: Any) -> dict[str, Any]:
    number = more.pop("id", minute)
    return {"id": number, "type": kind, "user": user, "body": body, "created_at": at(minute)} | more


def label(minute: int, name: str, user: Any = ALICE, *, added: bool = True) -> dict[str, Any]:
    return entry("label", minute, user, "1" if added else "", label={"id": 5, "name": name})


def push(minute: int, *commits: str, user: Any = OWN, forced: str = "false") -> dict[str, Any]:
    listed = ",".join(f'"{commit}"' for commit in commits)
    return entry("pull_push", minute, user, f'{{"is_force_push":{forced},"commit_ids":[{listed}]}}')


def pull(**fields: Any) -> dict[str, Any]:
    repository = {"full_name": "acme/pricing"}
    return {
        "number": 8,
        "title": "Round prices",
        "html_url": "https://gitea.com/acme/pricing/pulls/8",
        "state": "open",
        "labels": [{"id": 5, "name": "bug"}],
        "user": OWN,
        "mergeable": True,
        "created_at": at(0),
        "updated_at": at(20),
        "comments": 1,
        "requested_reviewers": None,
        "head": {"ref": "coding-agent/issue-7", "sha": HEAD, "repo_id": 1, "repo": repository},
        "base": {"ref": "main", "sha": BASE, "repo_id": 1, "repo": repository},
    } | fields


def review(number: int, state: str, user: Any = ALICE, **more: Any) -> dict[str, Any]:
    return {"id": number, "state": state, "user": user, "submitted_at": at(2), "commit_id": HEAD} | more


def said(number: int, line: int, minute: int, user: Any = ALICE, **more: Any) -> dict[str, Any]:
    place = {"path": "prices.py", "position": line, "original_position": 0, "diff_hunk": "@@ -1 +1 @@"}
    return place | {"id": number, "user": user, "body": f"remark {number}", "created_at": at(minute)} | more


@dataclass(frozen=True)
class Pages:
    """A list that Gitea 1.27 cuts into pages: none has a link, and `per_page` is ignored.

    Attributes:
        entries: all entries; `None` stands for one that Gitea leaves out after it has cut the list.
        counts_page: whether `X-Total-Count` is the size of the page, as in a timeline.
        largest: the installation's `MAX_RESPONSE_ITEMS`.
    """

    entries: Sequence[Any]
    counts_page: bool = False
    largest: int = 50

    def answer(self, params: httpx2.QueryParams) -> httpx2.Response:
        size = min(int(params.get("limit", "30")), self.largest)
        start = (int(params.get("page", "1")) - 1) * size
        page = [one for one in self.entries[start : start + size] if one is not None]
        total = len(page) if self.counts_page else len(self.entries)
        return httpx2.Response(200, content=json.dumps(page or None), headers={"X-Total-Count": str(total)})


class Gitea(Wire):
    """Answers by path; what is not in the table is 404. A list is one page, unless the table has more."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__([self._answer])
        self.table = {**PLACES, **table}

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        where = request.url.path.removeprefix("/api/v1")
        key = f"{request.method} {where}"
        number = request.url.params.get("page", "1")
        page = f"{where}?page={number}"
        for name in (key, page, where) if request.method == "GET" else (key,):
            if name in self.table:
                found = self.table[name]
                if isinstance(found, Pages):
                    return found.answer(request.url.params)
                if name == where and isinstance(found, list) and number != "1":
                    found = None
                return httpx2.Response(200, content=json.dumps(found))
        return answer(404, {"message": "not found"})


def opened(**more: Any) -> dict[str, Any]:
    """A pull request with two reviews, answered by path."""
    return {
        f"{REPO}/pulls/8": pull(),
        f"{REPO}/issues/8/timeline": [push(0, HEAD)],
        f"{REPO}/pulls/8/reviews": [],
        f"{REPO}/branches/main": {"commit": {"id": BASE}, "protected": False},
        f"{REPO}/commits/{HEAD}/status": {"statuses": None},
    } | {f"{REPO}/{path}": found for path, found in more.items()}


async def snapshot(table: Mapping[str, Any]) -> ChangeSnapshot:
    return await Gitea(table).forge(Platform.GITEA).snapshot(PULL)


async def test_a_timeline_is_read_to_its_end_although_pages_lack_entries() -> None:
    table = {f"{REPO}/issues/7/timeline?page={page}": [label(page, BOT)] for page in (1, 2)}
    forge = Gitea(table | {f"{REPO}/issues/7/timeline?page=3": None}).forge(Platform.GITEA)
    applied = await forge.label_application(ISSUE)
    assert applied is not None
    assert applied.at == datetime.fromisoformat(at(2))


LINES: list[Any] = [None] * 130
"""The places of comments on lines, which the timeline lacks."""


@pytest.mark.parametrize(
    ("entries", "largest", "requests"),
    [
        pytest.param([*LINES, entry("review", 2), label(3, BOT)], 50, 6, id="after a long review"),
        pytest.param([*LINES, label(3, BOT)], 30, 8, id="smaller pages"),
        pytest.param([*([entry("comment", 1)] * 2_040), label(3, BOT)], 50, 43, id="after 2,040 comments"),
        pytest.param([label(3, BOT)], 50, 3, id="short"),
    ],
)
async def test_whoever_applied_the_label_is_found_behind_pages_without_entries(
    entries: list[Any], largest: int, requests: int
) -> None:
    reviews = Pages([review(21, "COMMENT", comments_count=130)]) if entries[0] is None else Pages([])
    wire = Gitea(
        {
            f"{REPO}/issues/8/timeline": Pages(entries, counts_page=True, largest=largest),
            f"{REPO}/pulls/8/reviews": reviews,
            "/settings/api": {"max_response_items": largest},
        }
    )
    applied = await wire.forge(Platform.GITEA).label_application(PULL)
    assert applied is not None
    assert applied.user == "alice"
    assert len(wire.requests) == requests


@pytest.mark.parametrize("hidden", [60, 400])
async def test_a_title_cannot_be_changed_unseen_behind_references_that_we_may_not_see(hidden: int) -> None:
    """Anybody can refer to an item from a private repository, and a timeline lacks such references."""
    title = entry("change_title", 15, EVE, old_title="Round prices", new_title="Publish the keys")
    entries = [label(3, BOT), *([None] * hidden), title]
    issue = {"number": 7, "content_version": 0, "updated_at": at(16)}
    wire = Gitea({f"{REPO}/issues/7/timeline": Pages(entries, counts_page=True), f"{REPO}/issues/7": issue})
    details = ItemDetails(ISSUE, "Publish the keys", "", "eve", "", frozenset(), True, "main")
    found = await wire.forge(Platform.GITEA).revisions(details, datetime.fromisoformat(at(3)))
    assert [(one.what, one.user) for one in found] == [(Revised.TITLE, "eve")]


async def test_reviews_of_strangers_push_no_remark_of_a_member_out_of_the_window() -> None:
    """The comments of each review take a request, so of 100 reviews at most; anybody can write reviews."""
    mallory = [{"id": 100 + number, "login": f"mallory{number}"} for number in range(150)]
    reviews = [review(21, "COMMENT", ALICE, comments_count=1)]
    reviews += [review(30 + number, "COMMENT", EVE, comments_count=1) for number in range(120)]
    reviews += [
        review(200 + number, "COMMENT", user, comments_count=1) for number, user in enumerate(mallory)
    ]
    table: dict[str, Any] = {
        f"{REPO}/pulls/8/reviews/{one['id']}/comments": [said(one["id"], 3, 2, one["user"])]
        for one in reviews
    }
    wire = Gitea(opened(**{"pulls/8/reviews": Pages(reviews), "assignees": [OWN, ALICE]}) | table)
    found = await wire.forge(Platform.GITEA).snapshot(PULL)
    authors = [thread.remarks[0].author.login for thread in found.threads]
    assert len(authors) == 100
    assert authors[0] == "alice"
    assert authors.count("eve") <= 1, "nobody's reviews push out those of many others"
    assert Part.THREADS in found.left_out


async def test_a_timeline_that_is_too_long_does_not_say_that_nobody_applied_the_label() -> None:
    entries = [label(1, BOT, EVE), *([entry("comment", 2)] * 5_000), label(3, BOT)]
    wire = Gitea({f"{REPO}/issues/7/timeline": Pages(entries, counts_page=True)})
    forge = wire.forge(Platform.GITEA)
    history = await forge.label_history(ISSUE, None)
    assert (history.values, history.complete) == ((), False), "the newest events are not known"
    with pytest.raises(ForgeListTooLongError, match="longer than what is read"):
        await forge.label_application(ISSUE)


async def test_all_labels_and_webhooks_are_read_although_no_page_has_a_link() -> None:
    hooks = [{"id": number, "config": {"url": f"https://hook/{number}"}} for number in range(40)]
    labels = [{"id": number, "name": f"l{number}"} for number in range(45)]
    wire = Gitea({f"{REPO}/labels": Pages(labels), f"{REPO}/hooks": Pages(hooks)})
    setup = setup_of(wire.forge(Platform.GITEA))
    assert len(await setup.labels("acme/pricing")) == 45
    shared = Pages([{"id": 90 + number, "name": f"shared{number}"} for number in range(35)])
    wire.table["/orgs/acme/labels"] = shared
    assert len(await setup.labels("acme/pricing")) == 80, "an organization's labels can be applied, too"
    assert len(await setup.webhooks("acme/pricing")) == 40
    many = Gitea({f"{REPO}/labels": Pages([{"name": f"l{number}"} for number in range(1_500)])})
    with pytest.raises(ForgeListTooLongError, match="labels"):
        await setup_of(many.forge(Platform.GITEA)).labels("acme/pricing")


async def test_the_timeline_says_which_label_was_applied_and_removed() -> None:
    timeline = [
        label(1, BOT),
        label(2, "bug"),
        label(3, BOT, added=False),
        entry("comment", 4, body="1"),
        label(5, f"{BOT}: codex", EVE),
    ]
    forge = Gitea({f"{REPO}/issues/7/timeline": timeline}).forge(Platform.GITEA)
    history = await forge.label_history(ISSUE, datetime(2026, 11, 25, 11, 2, tzinfo=UTC))
    assert history.complete
    assert [(event.at.minute, event.user, event.label, event.added) for event in history.values] == [
        (5, "eve", f"{BOT}: codex", True),
        (3, "alice", BOT, False),
    ]
    nothing = Gitea({f"{REPO}/issues/7/timeline": None}).forge(Platform.GITEA)
    assert await nothing.label_application(ISSUE) is None, "an empty timeline is null"


async def test_a_label_that_does_not_exist_is_created() -> None:
    labels = f"POST {REPO}/issues/7/labels"
    forge = Gitea({labels: [{"id": 5, "name": BOT}]})
    await forge.forge(Platform.GITEA).add_label(ISSUE, BOT)
    assert [method for method, _ in forge.sent] == ["POST"]
    made = {labels: [], f"POST {REPO}/labels": {"id": 9, "name": BOT}}
    forge = Gitea({**made, f"{REPO}/labels": [{"id": 8, "name": "bug"}, {"id": 9, "name": BOT}]})
    await forge.forge(Platform.GITEA).add_label(ISSUE, BOT)
    assert forge.sent == [
        ("POST", f"{REPO}/issues/7/labels"),
        ("POST", f"{REPO}/labels"),
        ("GET", f"{REPO}/labels"),
        ("POST", f"{REPO}/issues/7/labels"),
    ]
    assert b"[9]" in forge.requests[-1].content


@pytest.mark.parametrize(
    ("others", "deleted", "used"),
    [([5], True, b"[5]"), ([12, 5], True, b"[5]"), ([12], False, b"[9]"), ([], False, b"[9]")],
)
async def test_of_two_labels_that_programs_create_at_once_the_first_stays(
    others: list[int], deleted: bool, used: bytes
) -> None:
    """Gitea refuses no second label of a name. Each program deletes its own one at most."""
    found = [{"id": number, "name": BOT} for number in (9, *others)]
    forge = Gitea(
        {
            f"POST {REPO}/issues/7/labels": [],
            f"POST {REPO}/labels": found[0],
            f"{REPO}/labels": found,
            f"DELETE {REPO}/labels/9": None,
        }
    )
    await forge.forge(Platform.GITEA).add_label(ISSUE, BOT)
    assert [one for one in forge.sent if one[0] == "DELETE"] == [("DELETE", f"{REPO}/labels/9")] * deleted
    assert used in forge.requests[-1].content


async def test_a_label_is_removed_by_its_ids() -> None:
    found = {"labels": [{"id": 5, "name": BOT}, {"id": 6, "name": BOT}, {"id": 7, "name": "bug"}]}
    gone = {f"DELETE {REPO}/issues/7/labels/{number}": None for number in (5, 6)}
    forge = Gitea({f"{REPO}/issues/7": found} | gone)
    assert await forge.forge(Platform.GITEA).remove_label(ISSUE, BOT)
    assert not await forge.forge(Platform.GITEA).remove_label(ISSUE, "other")
    assert [method for method, _ in forge.sent] == ["GET", "DELETE", "DELETE", "GET"]


async def test_a_search_without_an_existing_label_ends_at_once() -> None:
    """Gitea then answers with all items."""
    some = {"number": 1, "title": "t", "html_url": "u", "state": "open", "labels": []}
    found = [some | {"repository": {"full_name": "acme/pricing"}, "user": ALICE}]
    more = {"link": '<https://gitea.com/api/v1/repos/issues/search?page=2>; rel="next"'}
    wire = Wire([httpx2.Response(200, json=found, headers=more)])
    assert await polled(wire.forge(Platform.GITEA)) == []
    assert len(wire.requests) == 2, "one for issues, one for pull requests"


@pytest.mark.parametrize("assignee", ["", "bot", "eve"])
async def test_a_poll_finds_labeled_items(assignee: str) -> None:
    some = {"number": 7, "title": "t", "html_url": "https://gitea.com/acme/pricing/issues/7", "state": "open"}
    some |= {"labels": [{"name": BOT}], "user": EVE, "assignees": [OWN], "updated_at": at(9)}
    forge = Gitea(
        {
            "/repos/issues/search": [some | {"repository": {"full_name": "acme/pricing"}}],
            f"{REPO}/issues/7/timeline": [label(3, BOT)],
            REPO: {"full_name": "acme/pricing", "private": True},
            f"{REPO}/pulls/7": pull(number=7),
        }
    )
    data = {"personal_access_token": TOKEN, "assignee": assignee, "owner": "acme"}
    configured = Settings.model_validate({"gitea": data})
    found = await polled(forge.forge(Platform.GITEA, configured))
    assert forge.requests[0].url.params["owner"] == "acme"
    if assignee == "eve":
        assert found == []
        return
    request = found[0]
    assert (request.item, request.user, request.trusted) == (ISSUE, "alice", True)
    assert request.trigger.labeled_at == datetime(2026, 11, 25, 11, 3, tzinfo=UTC)


async def test_a_plain_comment_that_was_edited_is_nobodys_unless_it_is_ours() -> None:
    edited = {"updated_at": at(9)}
    timeline = [
        entry("comment", 1, body="@bot fix it", updated_at="2026-11-25T11:01:01Z"),
        entry("comment", 2, body="@bot drop the tests", **edited),
        entry("comment", 3, OWN, body="Coding agent: done", **edited),
        entry("comment", 4, EVE, body="older than updated_at"),
    ]
    change = await snapshot(opened(**{"issues/8/timeline": timeline}))
    assert [one.author.login for one in change.comments] == ["alice", "ghost", "bot", "eve"]
    assert [bool(one.author.id) for one in change.comments] == [True, False, True, True]


async def test_a_snapshot_has_reviews_threads_and_events() -> None:
    timeline = [
        push(0, HEAD),
        entry("comment", 1, EVE, "plain", html_url="https://gitea.com/c"),
        entry("review", 6, review_id=21, body="please"),
        label(7, "bug"),
        entry("reopen", 8),
        push(9, "c" * 40, user=EVE),
    ]
    reviews = [
        review(21, "REQUEST_CHANGES", body="please", comments_count=3),
        review(22, "COMMENT", EVE, dismissed=True),
        review(23, "PENDING", OWN, comments_count=1),
        review(24, "REQUEST_REVIEW", EVE),
    ]
    comments = [
        said(33, 4, 7, OWN),
        said(31, 4, 3),
        said(32, 0, 3, original_position=9, resolver=ALICE),
    ]
    change = await snapshot(
        opened(
            **{
                "issues/8/timeline": timeline,
                "pulls/8/reviews?page=1": reviews,
                "pulls/8/reviews/21/comments": comments,
                "pulls/8": pull(requested_reviewers=[EVE]),
            }
        )
    )
    assert (change.head_commit, change.base_commit, change.own.id) == (HEAD, BASE, "1")
    assert change.head_at == datetime(2026, 11, 25, 11, 0, tzinfo=UTC)
    assert [(one.id, one.verdict) for one in change.reviews] == [
        ("21", ReviewVerdict.CHANGES_REQUESTED),
        ("22", ReviewVerdict.DISMISSED),
    ]
    first, second = change.threads
    assert (first.id, first.line, first.resolved) == ("31", 4, False)
    assert [(remark.id, remark.published_at.minute) for remark in first.remarks] == [("31", 6), ("33", 7)]
    assert (second.line, second.resolved) == (9, True)
    assert [(one.body, one.author.login) for one in change.comments] == [("plain", "eve")]
    assert [(one.kind, one.label, one.commit[:1]) for one in change.events] == [
        (ChangeEventKind.LABELED, "bug", ""),
        (ChangeEventKind.REOPENED, "", ""),
        (ChangeEventKind.PUSHED, "", "c"),
    ]
    assert [one.login for one in change.requested_reviewers] == ["eve"]


@pytest.mark.parametrize(
    ("word", "conclusion", "required"),
    [
        ("success", CheckConclusion.SUCCESS, False),
        ("failure", CheckConclusion.FAILURE, False),
        ("error", CheckConclusion.FAILURE, False),
        ("warning", CheckConclusion.NEUTRAL, False),
        ("skipped", CheckConclusion.SKIPPED, False),
        ("pending", None, False),
        ("success", CheckConclusion.SUCCESS, True),
    ],
)
async def test_giteas_words_about_a_status(
    word: str, conclusion: CheckConclusion | None, required: bool
) -> None:
    status = {"context": "ci/unit", "status": word, "description": "3 failed", "created_at": at(3)}
    base = {"commit": {"id": BASE}, "enable_status_check": required, "status_check_contexts": ["ci/*"]}
    change = await snapshot(
        opened(**{f"commits/{HEAD}/status": {"statuses": [status]}, "branches/main": base})
        | {f"{REPO}/commits/{BASE}/status": {"statuses": [status]}}
    )
    [check] = change.checks
    assert (check.conclusion, check.required) == (conclusion, True if required else None)
    assert bool(change.base_checks) is (conclusion is CheckConclusion.FAILURE)


@pytest.mark.parametrize(
    ("fields", "waits", "expected"),
    [
        ({}, 0, Mergeability.MERGES),
        ({"mergeable": False}, 1, Mergeability.CONFLICT),
        ({"mergeable": False, "draft": True}, 0, Mergeability.NOT_SHOWN),
        ({"mergeable": False, "state": "closed"}, 0, Mergeability.UNKNOWN),
    ],
)
async def test_a_conflict_is_what_does_not_merge_for_some_time(
    fields: Any, waits: int, expected: Mergeability
) -> None:
    forge = Gitea(opened(**{"pulls/8": pull(**fields)}))
    assert (await forge.forge(Platform.GITEA).snapshot(PULL)).mergeability is expected
    assert len(forge.waits) == waits


async def test_our_draft_becomes_ready() -> None:
    """Gitea says of each draft that it is not mergeable."""
    fields = {"title": "WIP: Round prices", "draft": True, "mergeable": False}
    draft = await snapshot(opened(**{"pulls/8": pull(**fields)}))
    later = draft.read_at + POLICY.checks_quiet
    assert with_draft(Work(), draft, replace(POLICY, draft=True), later, active=False).ready


async def test_looks_read_again_only_what_may_have_changed() -> None:
    listed = [{"number": 8, "repository": {"full_name": "acme/pricing"}}]
    comments = {"pulls/8/reviews?page=1": [review(21, "COMMENT", comments_count=1)]}
    table = {"/repos/issues/search": listed} | opened(
        **comments, **{"pulls/8/reviews/21/comments": [said(31, 4, 3)], "pulls/8": pull(mergeable=False)}
    )
    wire = Gitea(table)
    forge = wire.forge(Platform.GITEA)
    first = (await forge.open_changes()).snapshots[0]
    assert first.mergeability is Mergeability.UNKNOWN
    assert [one.review for one in first.threads[0].remarks] == [first.reviews[0].id]
    wire.requests.clear()
    wire.table[f"{REPO}/pulls/8/reviews/21/comments"] = [said(31, 4, 3, resolver=ALICE)]
    assert (await forge.open_changes()).snapshots[0].threads[0].resolved
    assert len(wire.requests) == 9, "the resolution of a thread shows nowhere else"
    wire.requests.clear()
    await forge.open_changes()
    assert len(wire.requests) == 3, "the search, the pull request, its statuses"


REVISED = [
    entry("change_title", 1, EVE),
    entry("change_title", 6, EVE),
    push(0, "c" * 40),
    push(7, HEAD, user=EVE),
]


@pytest.mark.parametrize(
    ("timeline", "fields", "expected"),
    [
        ([push(0, HEAD)], {"content_version": 0}, []),
        (REVISED, {"content_version": 0}, [(Revised.TITLE, "eve"), (Revised.BRANCH, "eve")]),
        ([push(0, HEAD)], {"content_version": 2}, [(Revised.TEXT, "")]),
        ([push(0, HEAD)], {"content_version": 2, "updated_at": at(4)}, []),
        pytest.param([push(0, HEAD)], {}, [(Revised.TEXT, "")], id="before Gitea 1.26"),
        pytest.param([push(0, "c" * 40)], {"content_version": 0}, [(Revised.BRANCH, "")], id="not examined"),
    ],
)
async def test_who_changed_what(timeline: Any, fields: Any, expected: Any) -> None:
    issue = {"updated_at": at(20)} | fields
    forge = Gitea(opened(**{"issues/8/timeline": timeline, "issues/8": issue})).forge(Platform.GITEA)
    details = await forge.read(PULL)
    found = await forge.revisions(details, datetime(2026, 11, 25, 11, 5, tzinfo=UTC))
    assert [(revision.what, revision.user) for revision in found] == expected


async def test_reviews_and_checks_for_the_model() -> None:
    reviews = [review(21, "APPROVED", body="fine", comments_count=1, updated_at=at(9))]
    table = opened(
        **{
            "pulls/8/reviews?page=1": reviews,
            "pulls/8/reviews/21/comments": [said(31, 0, 3, original_position=9)],
            "pulls/8/files": [{"filename": "new.py", "previous_filename": "prices.py"}],
            f"commits/{HEAD}/status": {
                "statuses": [{"context": "ci", "status": "failure", "description": "3 failed"}]
            },
        }
    )
    forge = Gitea(table).forge(Platform.GITEA)
    found = await forge.discussion(PULL)
    assert [(one.verdict, one.body) for one in found.reviews] == [("approved", "fine")]
    [thread] = found.threads
    assert (thread.path, thread.previous_path) == ("new.py", "prices.py")
    assert (thread.line, thread.removed) == (9, True)
    checks = await forge.failed_checks(await forge.read(PULL))
    assert [(one.name, one.summary) for one in checks.failed] == [("ci", "3 failed")]


@pytest.mark.parametrize(
    ("said_by_gitea", "active", "expected"),
    [
        ("owner", True, Permission.WRITE),
        ("admin", True, Permission.WRITE),
        ("write", True, Permission.WRITE),
        pytest.param("owner", False, Permission.WRITE, id="an administrator of the installation"),
        pytest.param("admin", False, Permission.NONE, id="a deactivated administrator"),
        pytest.param("write", False, Permission.NONE, id="a deactivated account"),
        ("read", True, Permission.NONE),
        ("none", True, Permission.NONE),
        (None, True, Permission.NONE),
    ],
)
async def test_what_a_person_may_do(said_by_gitea: str | None, active: bool, expected: Permission) -> None:
    place = f"{REPO}/collaborators/eve/permission"
    table: dict[str, Any] = {place: {"permission": said_by_gitea}} if said_by_gitea else {}
    table[f"{REPO}/assignees"] = [{"id": 1, "login": "bob"}, *([{"id": 2, "login": "Eve"}] if active else [])]
    assert await Gitea(table).forge(Platform.GITEA).permission(ISSUE, "eve") is expected


async def test_our_change_is_found_by_its_branch_in_the_repository_itself() -> None:
    fork = pull(number=9, head={"ref": "coding-agent/issue-7", "sha": HEAD, "repo_id": 2, "repo": None})
    forge = Gitea({f"{REPO}/pulls": [fork, pull()]}).forge(Platform.GITEA)
    found = await forge.find_change(ISSUE, branch="coding-agent/issue-7")
    assert found is not None
    assert (found.number, found.created) == (8, False)
    assert await forge.find_change(ISSUE, branch="other") is None


async def test_what_gitea_cannot_do() -> None:
    forge = Gitea({}).forge(Platform.GITEA)
    assert await forge.check_log(PULL, "1") == ""
    with pytest.raises(ForgeError, match="again"):
        await forge.rerun_check(PULL, "1")


async def test_addresses_of_commits() -> None:
    forge = Gitea({"/users/Eve": {"id": 3, "login": "Eve", "full_name": "Eve E."}}).forge(Platform.GITEA)
    identity = await forge.commit_identity_of("Eve")
    assert identity is not None
    assert (identity.name, identity.email) == ("Eve E.", "3+eve@noreply.gitea.com")
    assert (await forge.clone_source("acme/pricing")).url == "https://gitea.com/acme/pricing.git"


async def test_a_pull_request_that_was_pushed_without_a_branch_has_none() -> None:
    """Gitea shows a pull request of AGit with the base repository and a reference of its own."""
    shown = pull()
    shown["head"] = {**shown["head"], "ref": "refs/pull/8/head", "repo": shown["base"]["repo"]}
    details = await Gitea({f"{REPO}/pulls/8": shown}).forge(Platform.GITEA).read(PULL)
    assert details.head_repository is not None
    assert details.head_branch is None
