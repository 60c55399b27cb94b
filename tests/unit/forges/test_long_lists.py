"""Lists of a forge that are longer than what is read of them."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from coding_agent_core.errors import ForgeListTooLongError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_forges.gitea import client as gitea
from coding_agent_forges.github import client as github
from coding_agent_forges.gitlab import client as gitlab
from coding_agent_forges.rest.comments import COMMENT_LIMIT
from coding_agent_forges.rest.forge import Forge

from tests.unit.forges.wire import ITEMS, Wire, answer

EACH_FORGE = pytest.mark.parametrize("platform", list(Platform))
BRANCH = "coding-agent/issue-7"


def paged(entries: Sequence[Any]) -> Callable[[httpx2.Request], httpx2.Response]:
    """Answer each request with a page of the list, in the order that the request asks for, with links."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        params = request.url.params
        size = int(params.get("limit", params.get("per_page", "20")))
        number = int(params.get("page", "1"))
        if request.url.path.startswith("/api/v1") and request.url.path.endswith("/comments"):
            size = len(entries) + 1  # Gitea does not cut this list
        newest_first = "desc" in (params.get("sort"), params.get("direction"))
        ordered = list(reversed(entries)) if newest_first else entries
        last = max(1, math.ceil(len(entries) / size))
        links = [f'<{request.url.copy_set_param("page", number + 1)}>; rel="next"'] * (number < last)
        links += [f'<{request.url.copy_set_param("page", 1)}>; rel="first"'] * (last > 1)
        links += [f'<{request.url.copy_set_param("page", last)}>; rel="last"'] * (number < last)
        page = ordered[(number - 1) * size : number * size]
        return answer(200, page, **({"Link": ", ".join(links)} if links else {}))

    return handle


def said(number: int) -> dict[str, Any]:
    user = {"id": 2, "login": "alice", "username": "alice"}
    time = {"created_at": "2026-11-25T11:00:00Z", "updated_at": "2026-11-25T11:00:00Z"}
    return {"id": number, "user": user, "author": user, "body": f"remark {number}", "system": False} | time


@EACH_FORGE
@pytest.mark.parametrize(
    ("count", "left_out"), [(COMMENT_LIMIT, ()), (COMMENT_LIMIT + 1, ("older comments",))]
)
async def test_more_comments_than_are_read_are_named(
    platform: Platform, count: int, left_out: tuple[str, ...]
) -> None:
    wire = Wire([paged([said(number) for number in range(1, count + 1)])])
    found = await wire.forge(platform).comments(ITEMS[platform])
    assert (len(found.values), found.values[-1].id, found.left_out) == (COMMENT_LIMIT, str(count), left_out)


def opened(number: int, branch: str, owner: str = "acme") -> dict[str, Any]:
    """A change in the fields of every forge; it comes from a fork if the owner is another."""
    head, base = {"full_name": f"{owner}/pricing"}, {"full_name": "acme/pricing"}
    return {
        "number": number,
        "iid": number,
        "title": "Round prices",
        "html_url": f"https://forge.test/{number}",
        "web_url": f"https://forge.test/{number}",
        "user": {"id": 1, "login": "bot"},
        "author": {"id": 1, "username": "bot"},
        "state": "open",
        "labels": [],
        "created_at": "2026-11-25T11:00:00Z",
        "updated_at": "2026-11-25T11:00:00Z",
        "source_branch": branch,
        "target_branch": "main",
        "source_project_id": 3 if owner == "acme" else 4,
        "target_project_id": 3,
        "project_id": 3,
        "head": {"ref": branch, "sha": "a" * 40, "repo_id": 1 if owner == "acme" else 2, "repo": head},
        "base": {"ref": "main", "sha": "b" * 40, "repo_id": 1, "repo": base},
    }


@EACH_FORGE
async def test_our_change_is_found_behind_changes_of_forks_with_the_same_branch(platform: Platform) -> None:
    others = [opened(number, BRANCH, "mallory") for number in range(10, 160)]
    wire = Wire([paged([*others, opened(9, BRANCH)])])
    found = await wire.forge(platform).find_change(ITEMS[platform], branch=BRANCH)
    assert found is not None
    assert found.number == 9


@EACH_FORGE
async def test_no_second_change_is_opened_if_the_list_was_not_read_to_its_end(platform: Platform) -> None:
    wire = Wire([paged([opened(number, BRANCH, "mallory") for number in range(2_100)])])
    with pytest.raises(ForgeListTooLongError, match="whether there is one"):
        await wire.forge(platform).open_change(
            ITEMS[platform], branch=BRANCH, base="main", title="Round prices", body=""
        )
    assert {method for method, _ in wire.sent} == {"GET"}


CHANGE = {platform: item.model_copy(update={"kind": ItemKind.CHANGE}) for platform, item in ITEMS.items()}


async def test_threads_beyond_what_is_read_on_gitlab_are_named() -> None:
    threads = [{"id": str(number), "notes": [said(number)]} for number in range(1_001)]
    found = await Wire([paged(threads)]).forge(Platform.GITLAB).discussion(CHANGE[Platform.GITLAB])
    assert found.left_out == ("newer threads",)


async def test_reviews_beyond_what_is_read_on_github_are_named() -> None:
    reviews = paged(
        [
            said(number) | {"state": "COMMENTED", "submitted_at": "2026-11-25T11:00:00Z"}
            for number in range(601)
        ]
    )

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            return answer(404, {"message": "not found"})
        return reviews(request) if request.url.path.endswith("/reviews") else answer(200, [])

    found = await Wire([handle]).forge(Platform.GITHUB).discussion(CHANGE[Platform.GITHUB])
    assert found.left_out == ("older reviews",)


def labeled(number: int) -> dict[str, Any]:
    created = datetime(2026, 11, 25, tzinfo=UTC) + timedelta(seconds=number)
    return opened(number, "topic") | {
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "labels": [{"name": "coding agent"}],
        "repository_url": "https://api.github.com/repos/acme/pricing",
        "repository": {"full_name": "acme/pricing"},
        "references": {"full": f"acme/pricing#{number}"},
    }


def searched(every: list[dict[str, Any]], platform: Platform) -> Callable[[httpx2.Request], httpx2.Response]:
    """Answer searches; GitHub's end after 1,000 results, although they count more."""
    if platform is Platform.GITLAB:
        every = [one | {"labels": ["coding agent"]} for one in every]

    def handle(request: httpx2.Request) -> httpx2.Response:
        if platform is not Platform.GITHUB:
            return paged(every)(request)
        query = request.url.params["q"]
        assert "sort:created-asc" in query
        created = re.search(r" created:>=(\S+)", query)
        found = [one for one in every if created is None or one["created_at"] >= created[1]]
        page = paged(found[:1_000])(request)
        body = {"total_count": len(found), "incomplete_results": False, "items": page.json()}
        return answer(200, body, **({"Link": page.headers["link"]} if "link" in page.headers else {}))

    return handle


async def collect(forge: Forge, found: list[int]) -> None:
    async for one in forge.labeled(frozenset({"coding agent"})):
        if one.item.kind is ItemKind.ISSUE:
            found.append(one.item.number)


@EACH_FORGE
@pytest.mark.parametrize("count", [1_000, 2_050])
async def test_a_poll_finds_all_labeled_items_of_a_long_list(platform: Platform, count: int) -> None:
    found: list[int] = []
    every = [labeled(number) for number in range(1, count + 1)]
    await collect(Wire([searched(every, platform)]).forge(platform), found)
    assert sorted(found) == list(range(1, count + 1))


@EACH_FORGE
async def test_more_labeled_items_than_a_poll_reads_are_an_error_after_the_oldest(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(github, "_SEARCHES", 2)
    monkeypatch.setattr(gitlab, "_LIST_PAGES", 20)
    monkeypatch.setattr(gitea, "_SEARCH_PAGES", 40)
    found: list[int] = []
    every = [labeled(number) for number in range(1, 2_051)]
    with pytest.raises(ForgeListTooLongError, match="more items labeled"):
        await collect(Wire([searched(every, platform)]).forge(platform), found)
    # The second search of GitHub begins in the last second of the first one.
    read = 1_999 if platform is Platform.GITHUB else 2_000
    assert sorted(found) == list(range(1, read + 1))


SOME_LEFT_OUT = {
    Platform.GITHUB: ("14 more failed checks", "older check runs", "older commit statuses"),
    Platform.GITLAB: ("490 more failed checks", "older failed jobs"),
    Platform.GITEA: ("2 more failed checks", "older commit statuses"),
}


@EACH_FORGE
async def test_failed_checks_say_what_was_not_read_of_them(platform: Platform) -> None:
    """A failed check can be behind the last page, and only ten of those that were read are shown."""

    def named(number: int) -> dict[str, Any]:
        state = "failed" if platform is Platform.GITLAB else "failure" if number in range(12) else "success"
        return {
            "id": number,
            "name": f"check {number}",
            "context": f"status {number}",
            "conclusion": state,
            "state": state,
            "status": state,
        }

    checks = paged([named(number) for number in range(2_200)])
    change = opened(7, BRANCH)
    change |= {"sha": "a" * 40, "head_pipeline": {"id": 5, "sha": "a" * 40, "project_id": 3, "ref": BRANCH}}

    def handle(request: httpx2.Request) -> httpx2.Response:
        where = request.url.path
        if where.endswith(("/jobs", "/check-runs", "/status")):
            page = checks(request)
            key = {"check-runs": "check_runs", "status": "statuses"}.get(where.rsplit("/", 1)[1])
            return answer(200, {key: page.json()} if key else page.json(), Link=page.headers["link"])
        if where.endswith(("/logs", "/trace")):
            return answer(404)
        return answer(200, change)

    forge = Wire([handle]).forge(platform)
    found = await forge.failed_checks(await forge.read(CHANGE[platform]))
    assert (len(found.failed), found.left_out) == (10, SOME_LEFT_OUT[platform])
