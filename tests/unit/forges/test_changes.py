"""How the forges' words about our open changes become a snapshot: tables, and answers that lack something."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeSnapshot,
    CheckConclusion,
    CheckKind,
    CheckState,
    Mergeability,
    OpenChanges,
    Part,
)
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_forges.github.change_responses import OLDER, OLDER_REMARKS, ONE, SEARCH, PullRequestResponse
from coding_agent_forges.github.changes import GitHubChanges, open_query
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.gitlab.change_responses import actor_of
from coding_agent_forges.rest.calls import User
from coding_agent_forges.rest.open_changes import why_unreadable
from coding_agent_forges.rest.responses import GHOST

from tests.unit.forges.wire import ITEMS, NOW, USER, Wire, answer

AT = "2026-11-25T11:00:00Z"
PULL: dict[str, Any] = {
    "__typename": "PullRequest",
    "number": 7,
    "title": "Fix it",
    "url": "https://github.com/acme/pricing/pull/7",
    "isDraft": False,
    "state": "OPEN",
    "createdAt": AT,
    "updatedAt": AT,
    "mergeable": "MERGEABLE",
    "headRefName": "coding-agent/fix",
    "headRefOid": "a" * 40,
    "baseRefName": "main",
    "author": {"__typename": "User", "login": "bot", "databaseId": 1},
    "repository": {"nameWithOwner": "acme/pricing"},
}
REFUSED = {"type": "FORBIDDEN", "message": "Resource not accessible by personal access token"}
COMMIT = ("commits", "nodes", 0, "commit")
ROLLUP = (*COMMIT, "statusCheckRollup")
RUN = {"__typename": "CheckRun", "databaseId": 3, "name": "unit", "status": "COMPLETED", "url": "https://x/"}
STATUS = {"__typename": "StatusContext", "context": "deploy", "createdAt": AT}


_CHECKS = ("commits", "nodes", 0, "commit", "statusCheckRollup", "contexts")


@dataclass
class Searched:
    """A GitHub with our open pull requests: it answers queries in pages, as they ask for them.

    Attributes:
        nodes: the pull requests, with all entries of their lists.
        errors: the errors about fields of them, with paths from `search` on.
        rest: the answers to all that is not GraphQL, in order.
    """

    nodes: Sequence[Any]
    more: bool = False
    errors: Sequence[dict[str, Any]] = ()
    headers: dict[str, str] = field(default_factory=dict)
    rest: list[httpx2.Response] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)

    def wire(self) -> Wire:
        return Wire([USER, self._answer])

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return self.rest.pop(0)
        asked = json.loads(request.content)
        query, variables = asked["query"], asked["variables"]
        self.queries.append(query)
        if "search(" in query:
            page = {"pageInfo": {"hasNextPage": self.more, "endCursor": "c"}, "nodes": self._listed()}
            body: dict[str, Any] = {"data": {"search": page}}
        elif "node(" in query:
            threads = [one for node in self.nodes for one in node["reviewThreads"]["nodes"]]
            [thread] = [one for one in threads if one["id"] == variables["thread"]]
            body = {"data": {"node": {"comments": _window(thread["comments"], query, variables)}}}
        else:
            place = [node.get("number") if node else 0 for node in self.nodes].index(variables["number"])
            shown = _shown(self.nodes[place], query, variables)
            own = [one for one in self.errors if one["path"][:3] == ["search", "nodes", place]]
            body = {"data": {"repository": {"pullRequest": shown}}}
            body["errors"] = [one | {"path": ["repository", "pullRequest", *one["path"][3:]]} for one in own]
        return answer(200, body, **self.headers)

    def _listed(self) -> list[Any]:
        names = (
            "__typename",
            "number",
            "state",
            "updatedAt",
            "mergeable",
            "headRefOid",
            "repository",
            "commits",
        )
        return [node and {name: node[name] for name in names if name in node} for node in self.nodes]


def _window(found: Any, query: str, variables: Any) -> Any:
    """The part of a list that a query asks for, with the cursors of its ends; they are positions."""
    if found is None or "totalCount" in found:
        return found
    nodes, cursor = found["nodes"], variables.get("cursor")
    if "after: $cursor" in query or ("first: 100) { \ntotalCount" in query and found.get("forward")):
        start = int(cursor or 0)
        page = nodes[start : start + 100]
        ends = {"endCursor": str(start + 100), "hasNextPage": start + 100 < len(nodes)}
    else:
        end = int(cursor) if cursor else len(nodes)
        start = max(0, end - (100 if cursor else 50))
        page = nodes[start:end]
        ends = {"hasPreviousPage": start > 0, "startCursor": str(start)}
    return {"totalCount": len(nodes), "pageInfo": ends, "nodes": page}


def _shown(node: dict[str, Any], query: str, variables: Any) -> dict[str, Any]:
    shown = deepcopy(node)
    for name in ("comments", "reviews", "reviewThreads"):
        if name in shown:
            shown[name] = _window(shown[name], query, variables)
    for thread in (shown.get("reviewThreads") or {}).get("nodes", ()):
        thread["comments"] = _window(thread["comments"], query, {})
    for commit in (shown.get("commits") or {}).get("nodes", ()):
        rollup = commit["commit"]["statusCheckRollup"]
        if rollup:
            rollup["contexts"] = _window(rollup["contexts"], query, variables)
    return shown


def searched(*nodes: Any, more: bool = False, errors: list[dict[str, Any]] | None = None) -> Searched:
    return Searched(nodes, more, errors or ())


def commit(author: int, parents: int = 1) -> dict[str, Any]:
    before = {"nodes": [{"oid": f"{place}" * 40} for place in range(parents)]}
    return {"parents": before, "author": {"email": "", "user": {"databaseId": author}}}


@pytest.mark.parametrize(
    ("commits", "may_have"),
    [
        pytest.param([commit(1), commit(2)], False, id="ours after the base's"),
        pytest.param([commit(2), commit(1)], True, id="somebody's after ours"),
        pytest.param([commit(1), commit(2), commit(1)], True, id="somebody's between ours"),
        pytest.param([commit(1, 2), *[commit(2)] * 18], False, id="our merge, and all commits are known"),
        pytest.param([commit(1, 2), *[commit(2)] * 19], True, id="our merge hides older ones"),
        pytest.param([commit(1), *[commit(2)] * 19], False, id="ours after many of the base"),
        pytest.param(
            [commit(1), commit(2, 2), *[commit(2)] * 18], False, id="ours after a merge in the base"
        ),
    ],
)
def test_whether_others_may_have_commits_on_the_branch(commits: list[Any], may_have: bool) -> None:
    """GitHub shows 20 commits. Commits of a base that we merged come before older commits of the branch."""
    head = {"headRef": {"target": {"history": {"nodes": commits}}}}
    assert PullRequestResponse.model_validate(PULL | head).may_have_others_commits("1") is may_have


def with_checks(*contexts: Any) -> dict[str, Any]:
    rollup = {"contexts": {"forward": True, "nodes": list(contexts)}} if contexts else None
    return PULL | {"commits": {"nodes": [{"commit": {"statusCheckRollup": rollup}}]}}


async def read(found: Searched, *rest: httpx2.Response) -> OpenChanges:
    found.rest += rest
    return await found.wire().forge(Platform.GITHUB).open_changes()


async def one(found: Searched, *rest: httpx2.Response) -> ChangeSnapshot:
    [snapshot] = (await read(found, *rest)).snapshots
    return snapshot


@pytest.mark.parametrize(
    ("login", "settings", "query"),
    [
        ("bot", {}, "is:pr is:open author:bot archived:false sort:updated-desc"),
        ("our[bot]", {}, "is:pr is:open author:app/our archived:false sort:updated-desc"),
        ("bot", {"owner": "acme"}, "is:pr is:open author:bot archived:false sort:updated-desc user:acme"),
        (
            "bot",
            {"query": "org:acme -repo:acme/old assignee:bot label:x state:open"},
            "is:pr is:open author:bot archived:false sort:updated-desc org:acme -repo:acme/old",
        ),
    ],
)
def test_the_search_keeps_the_configured_repositories_and_nothing_else(
    login: str, settings: dict[str, str], query: str
) -> None:
    assert open_query(login, GitHub.model_validate(settings)) == query


@pytest.mark.parametrize(
    ("node", "state", "conclusion", "kind"),
    [
        ({**RUN, "conclusion": "SUCCESS"}, "completed", "success", "check run"),
        ({**RUN, "conclusion": "TIMED_OUT"}, "completed", "timed out", "check run"),
        ({**RUN, "conclusion": "STARTUP_FAILURE"}, "completed", "infrastructure failure", "check run"),
        ({**RUN, "conclusion": "STALE"}, "completed", "stale", "check run"),
        ({**RUN, "conclusion": "A_NEW_WORD"}, "completed", "neutral", "check run"),
        ({**RUN, "status": "IN_PROGRESS", "conclusion": None}, "running", None, "check run"),
        ({**RUN, "status": "REQUESTED", "conclusion": None}, "waiting", None, "check run"),
        (
            {**RUN, "conclusion": "FAILURE", "checkSuite": {"app": {"slug": "github-actions"}}},
            "completed",
            "failure",
            "job",
        ),
        ({**STATUS, "state": "EXPECTED"}, "waiting", None, "status"),
        ({**STATUS, "state": "PENDING"}, "waiting", None, "status"),
        ({**STATUS, "state": "ERROR"}, "completed", "failure", "status"),
    ],
)
async def test_githubs_words_about_a_check(
    node: dict[str, Any], state: str, conclusion: str | None, kind: str
) -> None:
    no_earlier_runs = answer(200, {"check_runs": []})
    [check] = (await one(searched(with_checks(node)), no_earlier_runs)).checks
    assert (check.state, check.conclusion) == (CheckState(state), conclusion and CheckConclusion(conclusion))
    assert check.kind is CheckKind(kind)
    assert check.required is None, "the rules could not be read"


@pytest.mark.parametrize(
    ("node", "path", "problem"),
    [
        (with_checks(), None, ""),
        (with_checks(RUN | {"conclusion": "SUCCESS"}), None, ""),
        (with_checks(None), (*ROLLUP, "contexts", "nodes", 0), "our token may not read checks"),
        (with_checks(), ROLLUP, "our token may not read checks"),
        (
            with_checks(RUN | {"conclusion": "SUCCESS", "checkSuite": {"workflowRun": None}}),
            (*ROLLUP, "contexts", "nodes", 0, "checkSuite", "workflowRun"),
            "",
        ),
        (with_checks(), ("baseRef", "target", "statusCheckRollup"), ""),
        (with_checks(None), None, "GitHub does not show all checks"),
    ],
    ids=["none", "readable", "each refused", "all refused", "no workflow", "only the base", "unknown why"],
)
async def test_checks_that_cannot_be_read_on_github(
    node: dict[str, Any], path: tuple[str | int, ...] | None, problem: str
) -> None:
    errors = [REFUSED | {"path": ["search", "nodes", 0, *path]}] if path else None
    assert (await one(searched(node, errors=errors))).checks_problem == problem


async def test_the_refusal_of_one_change_is_not_that_of_another() -> None:
    errors = [REFUSED | {"path": ["search", "nodes", 0, *ROLLUP]}]
    refused, none = (
        await read(searched(with_checks(), with_checks() | {"number": 8}, errors=errors))
    ).snapshots
    assert (refused.checks_problem, none.checks_problem) == ("our token may not read checks", "")


async def test_what_cannot_be_read_holds_back_nothing_else() -> None:
    broken, nameless = PULL | {"number": 8, "title": None}, {"__typename": "PullRequest"}
    found = await read(searched(broken, None, nameless, PULL))
    assert [snapshot.item.number for snapshot in found.snapshots] == [7]
    [(item, why)] = found.unreadable
    assert (item.number, "title" in why, "Fix it" in why) == (8, True, False)


async def test_a_defect_that_one_change_shows_holds_back_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    read_one = GitHubChanges._snapshot

    def broken(changes: GitHubChanges, found: Any, *rest: Any) -> ChangeSnapshot:
        if found.number == 8:
            raise KeyError("rollup")
        return read_one(changes, found, *rest)

    monkeypatch.setattr(GitHubChanges, "_snapshot", broken)
    found = await read(searched(PULL | {"number": 8}, PULL))
    assert [snapshot.item.number for snapshot in found.snapshots] == [7]
    [(item, why)] = found.unreadable
    assert (item.number, "KeyError: 'rollup'" in why) == (8, True)


def test_what_stops_all_changes_is_not_the_fault_of_one() -> None:
    item = ITEMS[Platform.GITHUB]
    down, odd = ForgeUnavailableError("It is down.", status=502), ForgeError("It is odd.", status=200)
    with pytest.raises(ForgeUnavailableError):
        why_unreadable(down, item, of_one_change=False)
    assert why_unreadable(odd, item, of_one_change=True) == "It is odd."


async def test_what_was_closed_after_the_index_was_written_is_left_out() -> None:
    assert (await read(searched(PULL | {"state": "MERGED"}))).snapshots == ()


async def test_drafts_deleted_accounts_teams_and_apps() -> None:
    comment = {"fullDatabaseId": "5", "createdAt": AT, "body": "Why?", "author": None}
    draft = comment | {"state": "PENDING"}
    app = {"__typename": "Bot", "login": "copilot", "databaseId": 9}
    of_review = {"fullDatabaseId": "6", "submittedAt": "2026-11-25T11:30:00Z"}
    later = comment | {"author": app, "pullRequestReview": of_review}
    thread = {"id": "T", "path": "a.py", "line": 1, "isResolved": False, "isOutdated": False}
    found = await one(
        searched(
            PULL
            | {
                "comments": {"totalCount": 80, "nodes": [comment, None]},
                "reviews": {
                    "totalCount": 1,
                    "nodes": [{"fullDatabaseId": "6", "state": "PENDING", "author": None}],
                },
                "reviewThreads": {
                    "totalCount": 2,
                    "nodes": [
                        thread | {"comments": {"nodes": [draft]}},
                        thread | {"comments": {"nodes": [later]}},
                    ],
                },
                "reviewRequests": {"nodes": [{"requestedReviewer": {"__typename": "Team"}}]},
            }
        )
    )
    assert [remark.author for remark in found.comments] == [Actor("", "ghost")]
    assert (found.reviews, found.requested_reviewers) == ((), ())
    [shown] = found.threads
    assert shown.remarks[0].author == Actor("9", "copilot[bot]", ActorKind.BOT, member=False)
    assert shown.remarks[0].published_at.minute == 30, "nobody could read it before"
    assert (shown.remarks[0].review, found.comments[0].review) == ("6", "")
    assert found.left_out == {Part.COMMENTS}


def said(number: int, login: str = "mallory", **more: Any) -> dict[str, Any]:
    author = {"__typename": "User", "login": login, "databaseId": sum(map(ord, login))}
    text = {"fullDatabaseId": str(number), "createdAt": AT, "body": f"Remark {number}", "author": author}
    return text | {"url": "", "state": "SUBMITTED"} | more


def long_thread(number: int, *remarks: dict[str, Any]) -> dict[str, Any]:
    place = {"id": f"T{number}", "path": "a.py", "line": 1, "isResolved": False, "isOutdated": False}
    return place | {"comments": {"nodes": list(remarks)}}


async def test_strangers_push_nothing_out_of_a_snapshot() -> None:
    """A member's remark is older than 50 comments, replies, reviews and threads of strangers."""
    many = range(100, 300)
    submitted = {"state": "COMMENTED", "submittedAt": AT}
    found = await one(
        searched(
            PULL
            | {
                "comments": {"nodes": [said(1, "anna"), *map(said, many)]},
                "reviews": {
                    "nodes": [said(2, "anna", **submitted), *(said(one, **submitted) for one in many)]
                },
                "reviewThreads": {
                    "nodes": [
                        long_thread(3, said(3, "anna"), *map(said, many)),
                        *(long_thread(one, said(one + 1_000)) for one in many),
                    ]
                },
            }
        )
    )
    assert (len(found.comments), found.comments[0].author.login) == (201, "anna")
    assert (len(found.reviews), found.reviews[0].author.login) == (201, "anna")
    assert (len(found.threads), len(found.threads[0].remarks)) == (201, 201)
    assert found.threads[0].remarks[0].author.login == "anna"
    assert found.left_out == frozenset()


@pytest.mark.parametrize(("count", "complete"), [(100, True), (250, True), (1_300, False)])
async def test_all_checks_are_read_or_it_is_said(count: int, complete: bool) -> None:
    passed = [
        RUN | {"databaseId": number, "name": f"job {number}", "conclusion": "SUCCESS"}
        for number in range(count)
    ]
    found = await one(searched(with_checks(*passed)))
    assert (len(found.checks), Part.CHECKS not in found.left_out) == (min(count, 1_000), complete)


async def test_what_rests_costs_one_small_query_and_comments_are_read_once() -> None:
    """1,000 comments of strangers, and none of ours. Before, each look read them all again."""
    pull = PULL | {"comments": {"nodes": [said(number) for number in range(999)]}}
    github = Searched([pull, PULL | {"number": 8}], headers={"date": "Wed, 25 Nov 2026 12:00:00 GMT"})
    forge = github.wire().forge(Platform.GITHUB)

    async def look() -> tuple[int, int]:
        github.queries.clear()
        found = (await forge.open_changes()).snapshots
        return len(github.queries), len(found[0].comments)

    assert await look() == (1 + 2 + 10, 999)
    assert await look() == (1, 999)
    pull["comments"]["nodes"].append(said(1_001))
    pull["updatedAt"] = "2026-11-25T11:30:00Z"
    assert await look() == (1 + 1, 1_000), "only what has changed, and only the newest comments"


def points(query: str, nodes: int = 1) -> int:
    """GitHub's points for a query: a hundredth of the requests that its lists take.

    https://docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api
    """
    total, factors, pending = 0, [1], 1
    for word in re.findall(r"(?:first|last): (\$?\w+)|([{}])", re.sub(r"query\([^)]*\)", "", query)):
        size, brace = word
        if size:
            total += factors[-1]
            pending = nodes if size.startswith("$") else int(size)
        elif brace == "{":
            factors.append(factors[-1] * pending)
        else:
            factors.pop()
        pending = pending if size else 1  # an object is there once
    return max(1, round(total / 100))


def test_the_points_of_githubs_queries() -> None:
    """A look takes one point for each 40 pull requests at rest, and one for each that has changed."""
    assert points(SEARCH, nodes=40) == 1
    assert points(ONE) == 1
    assert max(points(older.query) for older in OLDER) == 1
    assert points(OLDER_REMARKS) == 1


async def test_the_number_of_queries_has_a_limit() -> None:
    github = searched(PULL, more=True)
    found = await github.wire().forge(Platform.GITHUB).open_changes()
    assert not found.complete
    assert sum("search(" in query for query in github.queries) == 5


@pytest.mark.parametrize(
    ("kind", "error"), [("NOT_FOUND", ForgeNotFoundError), ("RATE_LIMITED", ForgeUnavailableError)]
)
async def test_an_answer_without_data(kind: str, error: type[Exception]) -> None:
    refusal = answer(200, {"data": None, "errors": [{"type": kind, "message": "No."}]})
    with pytest.raises(error, match="No"):
        await Wire([USER, refusal]).forge(Platform.GITHUB).open_changes()
    change = ITEMS[Platform.GITHUB].model_copy(update={"kind": ItemKind.CHANGE})
    with pytest.raises(error, match="acme/pricing#7"):
        await Wire([USER, refusal]).forge(Platform.GITHUB).snapshot(change)


@pytest.mark.parametrize(
    "date",
    [
        "Wed, 25 Nov 2026 11:59:00 GMT",
        "Wed, 25 Nov 2026 11:59:00 -0000",
        # A proxy has added a header of its own.
        "Wed, 25 Nov 2026 11:59:00 GMT, Wed, 25 Nov 2026 11:59:00 GMT",
    ],
)
async def test_the_time_is_that_of_the_forges_clock(date: str) -> None:
    dated = searched(PULL)
    dated.headers["date"] = date
    # Everything in the answer happened before the end of this second.
    assert (await one(dated)).read_at == NOW.replace(hour=11, minute=59, microsecond=999_999)
    assert (await one(searched(PULL))).read_at == NOW


MERGE_REQUEST: dict[str, Any] = {
    "iid": 7,
    "project_id": 3,
    "references": {"full": "acme/Pricing!7"},
    "title": "Fix it",
    "description": "",
    "web_url": "https://gitlab.com/acme/pricing/-/merge_requests/7",
    "state": "opened",
    "labels": [],
    "author": {"id": 1, "username": "bot"},
    "created_at": AT,
    "updated_at": AT,
    "sha": "a" * 40,
    "source_branch": "coding-agent/fix",
    "target_branch": "main",
    "detailed_merge_status": "mergeable",
}
NOTHING = answer(200, [])
TIP = answer(200, {"commit": {"id": "b" * 40}})
PIPELINE = {"id": 5, "project_id": 3, "sha": "a" * 40, "ref": "coding-agent/fix", "status": "failed"}


async def merge_request(*more: Any, **fields: Any) -> ChangeSnapshot:
    change = ITEMS[Platform.GITLAB].model_copy(update={"kind": ItemKind.CHANGE})
    first = answer(200, MERGE_REQUEST | fields)
    wire = Wire([USER, first, *[NOTHING] * 5, TIP, *more])
    return await wire.forge(Platform.GITLAB).snapshot(change)


@pytest.mark.parametrize(
    ("status", "conflicts", "expected"),
    [
        ("mergeable", False, "merges"),
        ("checking", False, "unknown"),
        ("preparing", False, "unknown"),
        ("unchecked", False, "unknown"),
        ("approvals_syncing", False, "unknown"),
        ("conflict", True, "conflict"),
        ("draft_status", True, "conflict"),  # the first obstacle is named, not all
        ("need_rebase", False, "merges"),
        ("ci_must_pass", False, "merges"),
        ("a_new_word", False, "merges"),
    ],
)
async def test_gitlabs_words_about_a_merge(status: str, conflicts: bool, expected: str) -> None:
    found = await merge_request(detailed_merge_status=status, has_conflicts=conflicts)
    assert found.mergeability is Mergeability(expected)


@pytest.mark.parametrize(
    ("job", "state", "conclusion"),
    [
        ({"status": "created"}, "waiting", None),
        ({"status": "waiting_for_resource"}, "waiting", None),
        ({"status": "running"}, "running", None),
        ({"status": "success"}, "completed", "success"),
        ({"status": "failed", "failure_reason": "script_failure"}, "completed", "failure"),
        ({"status": "failed", "failure_reason": "job_execution_timeout"}, "completed", "timed out"),
        (
            {"status": "failed", "failure_reason": "runner_system_failure"},
            "completed",
            "infrastructure failure",
        ),
        ({"status": "failed", "failure_reason": "a_new_word"}, "completed", "failure"),
        ({"status": "failed", "allow_failure": True}, "completed", "neutral"),
        ({"status": "canceled"}, "completed", "cancelled"),
        ({"status": "manual"}, "completed", "action required"),
        ({"status": "manual", "allow_failure": True}, "completed", "neutral"),
    ],
)
async def test_gitlabs_words_about_a_job(job: dict[str, Any], state: str, conclusion: str | None) -> None:
    jobs = answer(200, [{"id": 9, "name": "unit", "stage": "test", **job}])
    found = await merge_request(jobs, NOTHING, NOTHING, head_pipeline=PIPELINE)
    [check] = found.checks
    assert (check.name, check.state) == ("test / unit", CheckState(state))
    assert check.conclusion == (conclusion and CheckConclusion(conclusion))


@pytest.mark.parametrize(
    ("sha", "ref", "counts"),
    [
        ("a" * 40, "coding-agent/fix", True),
        ("c" * 40, "coding-agent/fix", False),  # of an older commit
        ("c" * 40, "refs/merge-requests/7/merge", True),  # of the merged result
    ],
)
async def test_which_pipeline_counts(sha: str, ref: str, counts: bool) -> None:
    jobs = answer(200, [{"id": 9, "name": "unit", "stage": "test", "status": "success"}])
    pipeline = PIPELINE | {"sha": sha, "ref": ref}
    found = await merge_request(jobs, NOTHING, head_pipeline=pipeline)
    assert bool(found.checks) is counts


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("added 1 commit\n\n<ul><li>0123456 - Say 2</li></ul>", [("pushed", "")]),
        ("marked this merge request as **draft**", [("drafted", "")]),
        ("marked this merge request as **ready**", [("ready", "")]),
        ("approved this merge request", [("approved", "")]),
        ("unapproved this merge request", []),
        ("requested changes", [("changes requested", "")]),
        ("requested review from @anna", [("review requested", "anna")]),
        ("requested review from @anna-b.c and removed approval", [("review requested", "anna-b.c")]),
        (
            "requested review from @anna, @olaf, and @x_1 and removed review request for @mallory",
            [("review requested", "anna"), ("review requested", "olaf"), ("review requested", "x_1")],
        ),
        ("removed review request for @anna", []),
        ("changed title from **approved this merge request** to **requested changes**", []),
    ],
)
async def test_gitlabs_own_notes_about_a_merge_request(body: str, shown: list[tuple[str, str]]) -> None:
    note = {"id": 8, "body": body, "system": True, "author": {"id": 2, "username": "olaf"}, "created_at": AT}
    discussions = answer(200, [{"id": "d", "individual_note": True, "notes": [note]}])
    wire = Wire([USER, answer(200, MERGE_REQUEST), discussions, *[NOTHING] * 4, TIP])
    change = ITEMS[Platform.GITLAB].model_copy(update={"kind": ItemKind.CHANGE})
    events = (await wire.forge(Platform.GITLAB).snapshot(change)).events
    assert [(one.kind, one.reviewer) for one in events] == shown
    assert {(one.actor, one.number) for one in events} <= {(Actor("2", "olaf"), 8)}


@pytest.mark.parametrize(
    ("project", "shown"),
    [
        ("acme/pricing", True),
        ("Acme/Pricing", True),
        (3, True),
        ("acme/other", False),
        ((4, "acme/x"), False),
    ],
)
async def test_only_the_configured_projects_of_gitlab(project: Any, shown: bool) -> None:
    wire = Wire([USER, answer(200, [MERGE_REQUEST]), answer(200, MERGE_REQUEST), *[NOTHING] * 5, TIP])
    settings = {"gitlab": {"personal_access_token": "x", "project_id": project}}
    found = await wire.forge(Platform.GITLAB, Settings.model_validate(settings)).open_changes()
    assert len(found.snapshots) == shown


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        ("alice", ActorKind.PERSON),
        ("project_bot", ActorKind.PERSON),
        ("project_3_bot_0af1", ActorKind.BOT),
        ("group_3_bot", ActorKind.BOT),
    ],
)
def test_gitlabs_bots_are_known_by_their_logins(login: str, kind: ActorKind) -> None:
    assert actor_of(User.model_validate({"id": 4, "username": login})) == Actor("4", login, kind)


def test_a_deleted_account_has_no_number() -> None:
    assert actor_of(GHOST) == Actor("", "ghost")


@pytest.mark.parametrize("flag", ["internal", "confidential"])
async def test_nobody_reads_the_internal_notes_of_gitlab(flag: str) -> None:
    """What the model reads ends in public. The flag has had two names."""
    position = {"new_path": "a.py", "new_line": 1}
    public = {"id": 8, "body": "Rename it.", "author": {"id": 2, "username": "olaf"}, "created_at": AT}
    secret = public | {"id": 9, "body": "The key is hunter2.", flag: True}
    found = [
        {"id": "a", "individual_note": True, "notes": [secret]},
        {"id": "b", "individual_note": True, "notes": [public | {"internal": None}]},
        {"id": "c", "notes": [public | {"position": position}, secret]},
        {"id": "d", "notes": [secret | {"position": position}]},
    ]
    change = ITEMS[Platform.GITLAB].model_copy(update={"kind": ItemKind.CHANGE})
    wire = Wire([USER, answer(200, MERGE_REQUEST), answer(200, found), *[NOTHING] * 4, TIP])
    snapshot = await wire.forge(Platform.GITLAB).snapshot(change)
    assert [one.id for one in snapshot.comments] == ["8"]
    assert [one.id for thread in snapshot.threads for one in thread.remarks] == ["8"]
    wire = Wire([answer(200, [secret, public])])
    assert [one.id for one in (await wire.forge(Platform.GITLAB).comments(change)).values] == ["8"]
    wire = Wire([answer(200, found), answer(200, MERGE_REQUEST), NOTHING])
    discussion = await wire.forge(Platform.GITLAB).discussion(change)
    assert [one.id for thread in discussion.threads for one in thread.comments] == ["8"]
