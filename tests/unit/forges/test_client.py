"""Requests to all forges: what is sent again, where it goes, and what a strange answer becomes."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from coding_agent_core.errors import (
    ForgeArchivedError,
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
)
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_forges.connect import connect_all, connect_forge, forge_of
from coding_agent_forges.rest import client

from tests.fixtures.forge import polled
from tests.unit.forges.wire import ITEMS, SETTINGS, TOKEN, USER, Answer, Wire, answer

every = pytest.mark.parametrize("platform", list(Platform))
COMMENT = answer(
    201,
    {
        "id": 5,
        "body": "marker",
        "created_at": "2026-11-25T11:00:00Z",
        "user": {"login": "bot", "id": 1},
        "author": {"username": "bot", "id": 1},
    },
)


@pytest.mark.parametrize(
    "failure",
    [answer(502), answer(503, None, retry_after="3"), httpx2.ConnectError("no"), httpx2.ReadTimeout("slow")],
)
async def test_a_read_survives_a_passing_failure(failure: Answer) -> None:
    wire = Wire([failure, USER])
    assert await wire.forge(Platform.GITHUB).whoami() == "bot"
    assert len(wire.waits) == 1
    if isinstance(failure, httpx2.Response) and "retry-after" in failure.headers:
        assert 3 <= wire.waits[0] <= 4


async def test_a_forge_that_stays_down_is_given_up_after_four_tries() -> None:
    wire = Wire([answer(500)])
    with pytest.raises(ForgeUnavailableError) as caught:
        await wire.forge(Platform.GITHUB).whoami()
    assert len(wire.requests) == 4
    assert wire.elapsed < 45
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (answer(401, {"message": "Bad credentials"}), ForgeRefusedError),
        (answer(422, {"message": "Validation Failed"}), ForgeError),
        (answer(429, None, retry_after="3600"), ForgeUnavailableError),  # the caller waits for it
    ],
)
async def test_a_refusal_or_a_long_rate_limit_is_not_asked_again(
    refusal: httpx2.Response, kind: type[ForgeError]
) -> None:
    wire = Wire([refusal])
    with pytest.raises(kind) as caught:
        await wire.forge(Platform.GITHUB).whoami()
    assert len(wire.requests) == 1
    assert caught.value.retry_after == (3600 if kind is ForgeUnavailableError else None)


@every
@pytest.mark.parametrize(
    ("failure", "sent"),
    [
        pytest.param(httpx2.ConnectError("refused"), 2, id="not connected: again"),
        pytest.param(answer(429, None, retry_after="1"), 2, id="rate-limited: again"),
        pytest.param(httpx2.ReadTimeout("slow"), 1, id="no answer: maybe done"),
        pytest.param(answer(502), 1, id="502: maybe done"),
    ],
)
async def test_a_comment_is_posted_again_only_if_it_was_certainly_not_taken(
    platform: Platform, failure: Answer, sent: int
) -> None:
    nothing = answer(200, [])
    wire = Wire([USER, nothing, failure, *([COMMENT] if sent == 2 else [nothing])])
    write = wire.forge(platform).upsert_comment(ITEMS[platform], "marker", "marker")
    if sent == 2:
        assert (await write).id == "5"
    else:
        with pytest.raises(ForgeUnavailableError):
            await write
    assert [method for method, _ in wire.sent].count("POST") == sent


@every
async def test_a_comment_whose_answer_was_lost_is_found_again(platform: Platform) -> None:
    written = answer(200, [COMMENT.json()])
    wire = Wire([USER, answer(200, []), httpx2.ReadTimeout("slow"), written])
    comment = await wire.forge(platform).upsert_comment(ITEMS[platform], "marker", "marker")
    assert comment.id == "5"
    assert [method for method, _ in wire.sent] == ["GET", "GET", "POST", "GET"]


@pytest.mark.parametrize(
    ("answers", "removed"),
    [
        pytest.param([answer(200, [])], True, id="there"),
        pytest.param([answer(404, {"message": "Label does not exist"})], False, id="not there"),
        pytest.param(
            [answer(404, {"message": "Other words"}), "issue without"], False, id="not there, in other words"
        ),
        pytest.param(
            [answer(404, {"message": "Not Found"}), answer(404, {"message": "Not Found"})],
            None,
            id="the issue is gone",
        ),
    ],
)
async def test_removing_a_label_on_github_tells_gone_from_not_there(
    answers: list[object], removed: bool | None
) -> None:
    issue = {"number": 7, "title": "t", "html_url": "u", "state": "open", "labels": []}
    wire = Wire([answer(200, issue) if entry == "issue without" else entry for entry in answers])  # type: ignore[misc]
    removal = wire.forge(Platform.GITHUB).remove_label(ITEMS[Platform.GITHUB], "area/api ü")
    if removed is None:
        with pytest.raises(ForgeNotFoundError):
            await removal
    else:
        assert await removal is removed
    assert wire.sent[0] == ("DELETE", "/repos/acme/pricing/issues/7/labels/area%2Fapi%20%C3%BC")


@every
@pytest.mark.parametrize(
    ("strange", "named"),
    [
        (httpx2.Response(200, html="<p>sign in</p>"), "JSON"),
        (answer(200, {"login": "bot", "username": "bot"}), "id"),
        (answer(200, []), "unexpected answer"),
    ],
)
async def test_an_answer_of_another_shape_names_the_field(
    platform: Platform, strange: httpx2.Response, named: str
) -> None:
    wire = Wire([strange])
    with pytest.raises(ForgeUnavailableError, match=named) as caught:
        await wire.forge(platform).whoami()
    assert "sign in" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "http://api.github.com/user",
        "https://api.github.com:8443/user",
        "https://api.github.com.evil.example/user",
        "//evil.example/user",
    ],
)
async def test_the_token_follows_no_redirect_to_another_host(target: str) -> None:
    wire = Wire([answer(301, None, location=target), USER])
    with pytest.raises(ForgeError, match="redirects elsewhere"):
        await wire.forge(Platform.GITHUB).whoami()
    assert len(wire.requests) == 1


@every
async def test_a_redirect_on_the_same_host_is_followed(platform: Platform) -> None:
    """A renamed repository answers with one."""
    wire = Wire([answer(301, None, location="/moved?x=1"), USER])
    assert await wire.forge(platform).whoami() == "bot"
    assert wire.requests[1].url.raw_path == b"/moved?x=1"
    assert wire.requests[1].headers["authorization"] == f"Bearer {TOKEN}"


async def test_a_redirected_write_keeps_its_method_or_is_not_made() -> None:
    renamed = answer(200, {"id": 1, "full_name": "acme/costs"})
    moved = answer(307, None, location="/repositories/1/issues/7/labels")
    wire = Wire([moved, renamed, answer(200, [])])
    await wire.forge(Platform.GITHUB).add_label(ITEMS[Platform.GITHUB], "x")
    assert [request.method for request in wire.requests] == ["POST", "GET", "POST"]
    assert wire.requests[2].content == wire.requests[0].content
    wire = Wire([answer(302, None, location="/repositories/1/issues/7/labels"), answer(200, [])])
    with pytest.raises(ForgeError):
        await wire.forge(Platform.GITHUB).add_label(ITEMS[Platform.GITHUB], "x")
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        answer(423, {"message": "repo is archived"}),
        answer(403, {"message": "Repository was archived so is read-only."}),
    ],
    ids=["Gitea", "GitHub"],
)
async def test_an_archived_repository_is_named_as_the_reason(refusal: httpx2.Response) -> None:
    wire = Wire([refusal])
    with pytest.raises(ForgeArchivedError, match="the repository is archived"):
        await wire.forge(Platform.GITHUB).add_label(ITEMS[Platform.GITHUB], "x")
    assert len(wire.requests) == 1


async def test_a_body_without_the_marker_is_refused() -> None:
    wire = Wire([USER])
    with pytest.raises(ValueError, match="marker"):
        await wire.forge(Platform.GITHUB).upsert_comment(ITEMS[Platform.GITHUB], "marker", "other")
    assert wire.requests == []


async def test_a_removal_whose_answer_was_lost_is_not_repeated_on_github() -> None:
    # Repeated, it would answer 404, and the one who removed the label would be told that it was not there.
    wire = Wire([httpx2.ReadTimeout("slow"), answer(404, {"message": "Label does not exist"})])
    with pytest.raises(ForgeUnavailableError):
        await wire.forge(Platform.GITHUB).remove_label(ITEMS[Platform.GITHUB], "coding agent")
    assert len(wire.requests) == 1


async def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TOTAL_TIMEOUT", 0.02)

    class Endless(Wire):
        async def handle(self, request: httpx2.Request) -> httpx2.Response:
            self.requests.append(request)
            await asyncio.Event().wait()
            raise AssertionError("never")

    wire = Endless([])
    with pytest.raises(ForgeUnavailableError, match="no complete answer"):
        await wire.forge(Platform.GITHUB).whoami()
    assert len(wire.requests) == 4


@pytest.mark.parametrize(("labeled_on", "asked"), [(3, [1, 3, 2]), (2, [1, 3, 2])])
async def test_the_newest_labeling_is_looked_for_from_the_last_page_back(
    labeled_on: int, asked: list[int]
) -> None:
    """A few older events are read too: they show whether the forge's clock was set back."""
    pages: list[int] = []
    issue = {
        "number": 7,
        "title": "t",
        "html_url": "u",
        "state": "open",
        "labels": [{"name": "Coding Agent"}],
        "repository_url": "https://api.github.com/repos/acme/pricing",
        "user": None,
    }

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/search/issues":
            found = [issue] if "is:issue" in request.url.params["q"] else []
            return answer(200, {"total_count": len(found), "items": found})
        if request.url.path == "/repos/acme/pricing":
            return answer(200, {"full_name": "acme/pricing"})
        page = int(request.url.params["page"])
        pages.append(page)
        event = {"event": "labeled", "label": {"name": "coding agent"}, "actor": None}
        events = [
            event | {"id": 10 * page + second, "created_at": f"2026-11-0{page}T00:00:0{second}Z"}
            for second in (1, 2)
            if page == labeled_on
        ]
        url = str(request.url.copy_set_param("page", 3))
        link = f'<{url}>; rel="last"' + (f', <{url}>; rel="next"' if page < 3 else "")
        return answer(200, events, link=link)

    wire = Wire([handle])
    [found] = await polled(wire.forge(Platform.GITHUB))
    assert pages == asked
    assert found.trigger.labeled_at == datetime(2026, 11, labeled_on, 0, 0, 2, tzinfo=UTC)
    assert found.user == "ghost"  # GitHub shows deleted accounts as null


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        (Platform.GITHUB, ("github.personal_access_token", "GITHUB_PERSONAL_ACCESS_TOKEN")),
        (Platform.GITLAB, ("gitlab.personal_access_token", "GITLAB_PERSONAL_ACCESS_TOKEN")),
    ],
)
def test_no_token_names_the_setting_and_the_variable(platform: Platform, names: tuple[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        connect_forge(Settings(), platform)
    assert all(name in str(caught.value) for name in names)
    with pytest.raises(SettingsError) as caught:
        connect_all(Settings())
    assert all(name in str(caught.value) for name in names)


async def test_a_token_that_is_not_mounted_here_does_not_stop_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate(
        {"github": {"personal_access_token": {"files": [tmp_path / "none"]}}, "gitlab": SETTINGS.gitlab}
    )
    assert list(connect_all(settings)) == ["gitlab.com"]
    assert "No token for GitHub" in caplog.text


def test_an_items_forge_is_found_by_its_host() -> None:
    forges = connect_all(SETTINGS)
    item = ITEMS[Platform.GITHUB]
    assert forge_of(forges, item) is forges["github.com"]
    assert forge_of(forges, item.model_copy(update={"host": "GitHub.com"})) is forges["github.com"]
    for host in ("github.example.com", "gitlab.com"):
        with pytest.raises(SettingsError, match=r"github\.api_url"):
            forge_of(forges, item.model_copy(update={"host": host}))


def test_two_platforms_on_one_host_are_refused() -> None:
    settings = Settings.model_validate(
        {
            "github": {"api_url": "https://x.example/api/v3", "personal_access_token": "t"},
            "gitlab": {"api_url": "https://x.example/api/v4", "personal_access_token": "t"},
        }
    )
    with pytest.raises(SettingsError, match=r"x\.example"):
        connect_all(settings)


@pytest.mark.parametrize("platform", list(Platform))
async def test_a_rotated_token_is_used_at_once_and_its_owner_asked_again(
    platform: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    settings = Settings.model_validate({platform: {"personal_access_token": {"files": [file]}}})
    wire = Wire(
        [
            answer(200, {"id": 1, "login": "bot", "username": "bot"}),
            answer(200, {"id": 2, "login": "new", "username": "new"}),
        ]
    )
    forge = wire.forge(platform, settings)
    assert [await forge.whoami(), await forge.whoami()] == ["bot", "bot"]
    file.write_text("second-token\n")
    assert await forge.whoami() == "new"
    assert [request.headers["authorization"] for request in wire.requests] == [
        "Bearer first",
        "Bearer second-token",
    ]
    assert (await forge.clone_source("acme/pricing")).token == "second-token"


async def test_a_request_with_a_refused_token_is_sent_again_only_if_there_is_another(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    settings = Settings.model_validate({"github": {"personal_access_token": {"files": [file]}}})
    refused = answer(401, {"message": "Bad credentials"})

    def rotate(_: httpx2.Request) -> httpx2.Response:
        file.write_text("second-token\n")
        return refused

    wire = Wire([refused, rotate, USER])
    forge = wire.forge(Platform.GITHUB, settings)
    with pytest.raises(ForgeRefusedError, match="Bad credentials"):
        await forge.whoami()
    assert len(wire.requests) == 1
    assert await forge.whoami() == "bot"
    sent = [request.headers["authorization"] for request in wire.requests]
    assert sent == ["Bearer first", "Bearer first", "Bearer second-token"]


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize(
    ("platform", "title", "mark"),
    [
        (Platform.GITEA, "[WIP] wip: Round prices", "WIP: "),
        (Platform.GITLAB, "Draft: Round prices", "Draft: "),
    ],
)
async def test_only_we_decide_whether_a_new_change_is_a_draft(
    platform: Platform, title: str, mark: str, draft: bool
) -> None:
    """The title is that of an issue, and people mark unfinished issues in the same way."""
    opened = {"title": "t", "state": "open", "labels": [], "html_url": "u", "web_url": "u"}
    wire = Wire([answer(200, []), answer(201, opened | {"number" if platform == "gitea" else "iid": 8})])
    await wire.forge(platform).open_change(
        ITEMS[platform], branch="fix", base="main", title=title, body="", draft=draft
    )
    expected = f"{mark if draft else ''}Round prices"
    assert json.loads(wire.requests[-1].content)["title"] == expected


@pytest.mark.parametrize("platform", [Platform.GITHUB, Platform.GITEA])
async def test_what_an_attempt_needs_first_is_read_at_once(platform: Platform) -> None:
    """The item with its repository, and the repository with the branch: each answer may take 0.1 s."""
    met = asyncio.Barrier(2)

    async def meet(_: httpx2.Request) -> httpx2.Response:
        await met.wait()
        return httpx2.Response(404)

    forge = connect_forge(SETTINGS, platform, transport=httpx2.MockTransport(meet))
    async with asyncio.timeout(60):
        with pytest.raises(ForgeNotFoundError):
            await forge.read(ITEMS[platform])
        with pytest.raises(ForgeNotFoundError):
            await forge.branch_facts("acme/pricing", "coding-agent/issue-7")
