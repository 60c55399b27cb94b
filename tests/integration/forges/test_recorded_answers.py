"""Our client reads what the real api.github.com once answered, as octokit recorded it (`@octokit/fixtures`).

The recordings have few of the client's requests, and no pull request, comment or check.
"""

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx2
import pytest
from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.values import CommitState, CommitStatus
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Item
from coding_agent_forges.rest.calls import Call
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.responses import ItemResponse

from tests.fixtures.octokit import recorded
from tests.unit.forges.wire import TOKEN, Wire

OWNER = "octokit-fixture-org"
SETTINGS = Settings.model_validate({"github": {"personal_access_token": TOKEN, "owner": OWNER}})
Answers = Callable[[httpx2.Request], httpx2.Response]


def replay(*scenarios: str) -> Answers:
    """Answers from recordings, by method and path; a path that answered several times does so in order."""
    left = [entry for scenario in scenarios for entry in recorded(scenario)]

    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        for entry in left:
            asked = urlsplit(entry["path"])
            where, page = asked.path, httpx2.QueryParams(asked.query).get("page", "1")
            if (
                page != "1"
            ):  # recorded at the link of the page before, where our client only changes the number
                where = where.replace("/repositories/1000/", f"/repos/{OWNER}/paginate-issues/")
            if (entry["method"].upper(), where, page) == (
                request.method,
                request.url.path,
                request.url.params.get("page", "1"),
            ):
                left.remove(entry)
                kept = (
                    "content-type",
                    "link",
                    "location",
                    "etag",
                    "x-ratelimit-remaining",
                    "x-ratelimit-reset",
                )
                headers = {name: str(entry["headers"][name]) for name in kept if name in entry["headers"]}
                return httpx2.Response(entry["status"], json=entry["response"], headers=headers)
        raise AssertionError(f"nothing was recorded for {request.method} {request.url}")

    return answer


def client(*scenarios: str) -> Forge:
    """Our client of api.github.com, whose requests a recording answers."""
    return Wire([replay(*scenarios)]).forge(Platform.GITHUB, SETTINGS)


def item(repository: str, number: int = 1) -> Item:
    return Item(
        platform=Platform.GITHUB,
        host="github.com",
        repository=f"{OWNER}/{repository}",
        kind=ItemKind.ISSUE,
        number=number,
    )


async def test_pages_of_issues_are_read_to_their_end() -> None:
    forge = client("paginate-issues")
    call = Call("GET", f"/repos/{OWNER}/paginate-issues/issues", "reading the issues")
    pages = [page async for page in forge.client.pages(list[ItemResponse], call, limit=9)]
    issues = [found for page in pages for found in page]
    assert [len(page) for page in pages] == [3, 3, 3, 3, 1]
    assert [found.number for found in issues] == list(range(13, 0, -1))
    assert all(found.open and found.author.login and found.updated_at and found.url for found in issues)


async def test_a_search_gives_items_with_their_repository() -> None:
    forge = client("search-issues")
    found = [entry async for entry in forge._search(ItemKind.ISSUE, frozenset({"coding agent"}))]
    assert [(one.repository, one.kind) for _, one in found] == [
        (f"{OWNER}/search-issues", ItemKind.ISSUE)
    ] * 2
    assert all(answer.title and answer.open for answer, _ in found)


async def test_a_renamed_repository_is_followed_to_its_new_name() -> None:
    where = item("rename-repository")
    assert await client("rename-repository")._is_private(where) is False


async def test_labels_and_statuses_are_written() -> None:
    await client("add-labels-to-issue").add_label(item("add-labels-to-issue"), "Foo")
    forge, commit = client("create-status"), "0" * 39 + "1"
    for state in (CommitState.FAILURE, CommitState.SUCCESS):
        await forge.set_status(
            item("create-status"), commit, CommitStatus("example/1", state, "It says so.", "")
        )


async def test_a_refusal_says_which_field_is_wrong() -> None:
    forge = client("errors")
    with pytest.raises(ForgeError, match=r"Validation Failed.*color") as caught:
        await forge.client.send(Call("POST", f"/repos/{OWNER}/errors/labels", "creating a label", json={}))
    assert caught.value.status == 422
