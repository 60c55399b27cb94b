"""A repository that was renamed, and an issue that was transferred: what is followed, and where it leads."""

import httpx2
import pytest
from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.platforms.registry import Platform
from coding_agent_forges.rest.calls import Call

from tests.unit.forges.wire import ITEMS, TOKEN, Wire, answer

ITEM = ITEMS[Platform.GITHUB]
RENAMED = answer(200, {"id": 1, "full_name": "acme/costs"})
LABELS = "/repositories/1/issues/7/labels"


def redirect(target: str, status: int = 307) -> httpx2.Response:
    return answer(status, None, location=target)


@pytest.mark.parametrize("status", [301, 307, 308])
@pytest.mark.parametrize(
    "target", [LABELS, "/repos/acme/costs/issues/7/labels", "https://api.github.com" + LABELS]
)
async def test_a_write_to_a_renamed_repository_is_sent_again_as_it_was(status: int, target: str) -> None:
    wire = Wire([redirect(target, status), redirect("/repositories/1", 301), RENAMED, answer(200, [])])
    await wire.forge(Platform.GITHUB).add_label(ITEM, "x")
    assert [request.method for request in wire.requests] == ["POST", "GET", "GET", "POST"]
    first, *_, last = wire.requests
    assert last.content == first.content
    assert last.headers["authorization"] == f"Bearer {TOKEN}"


async def test_the_new_name_is_asked_for_once() -> None:
    wire = Wire([redirect(LABELS), RENAMED, answer(200, []), redirect(LABELS), answer(200, [])])
    forge = wire.forge(Platform.GITHUB)
    await forge.add_label(ITEM, "x")
    await forge.add_label(ITEM, "y")
    assert len(wire.requests) == 5


@pytest.mark.parametrize(
    ("status", "target"),
    [
        pytest.param(302, LABELS, id="not one that keeps the method"),
        pytest.param(303, LABELS, id="not one that keeps the method"),
        pytest.param(301, "https://evil.example" + LABELS, id="another host"),
        pytest.param(307, "http://api.github.com" + LABELS, id="without TLS"),
        pytest.param(308, "https://api.github.com:8443" + LABELS, id="another port"),
    ],
)
async def test_a_write_follows_no_other_redirect(status: int, target: str) -> None:
    wire = Wire([redirect(target, status), answer(200, [])])
    with pytest.raises(ForgeError, match="redirects elsewhere"):
        await wire.forge(Platform.GITHUB).add_label(ITEM, "x")
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/repositories/2/issues/7/labels",
        "/repositories/11/issues/7/labels",
        "/repos/acme/other/issues/7/labels",
        "/repos/acme/pricing-x/issues/7/labels",
        "/elsewhere?x=/repositories/1/issues/7/labels",
    ],
)
async def test_nothing_is_written_to_an_issue_that_was_transferred(target: str) -> None:
    wire = Wire([redirect(target), answer(200, {"id": 1, "full_name": "acme/pricing"}), answer(200, [])])
    with pytest.raises(ForgeNotFoundError, match="moved to another repository"):
        await wire.forge(Platform.GITHUB).add_label(ITEM, "x")
    assert [request.method for request in wire.requests] == ["POST", "GET"]


async def test_an_issue_that_was_transferred_is_not_read_as_the_other_repositorys() -> None:
    wire = Wire(
        [redirect("/repositories/2/issues/3", 301), answer(200, {"id": 1, "full_name": "acme/pricing"})]
    )
    with pytest.raises(ForgeNotFoundError, match="moved to another repository"):
        await wire.forge(Platform.GITHUB).read_state(ITEM)


@pytest.mark.parametrize("platform", [Platform.GITHUB, Platform.GITEA])
async def test_after_a_redirect_git_and_the_item_get_the_new_name(platform: Platform) -> None:
    item = ITEMS[platform]
    wire = Wire([redirect(LABELS, 301), RENAMED, answer(200, []), RENAMED])
    forge = wire.forge(platform)
    before = (await forge.clone_source(item.repository)).url
    assert before.endswith("/acme/pricing.git")
    assert await forge.locate(item) is item
    assert wire.requests == [], "nobody asks without a reason"
    await forge.client.send(Call("GET", "/repos/acme/pricing/issues/7/labels", "reading the labels"))
    assert (await forge.clone_source(item.repository)).url.endswith("/acme/costs.git")
    assert (await forge.locate(item)).repository == "acme/costs"


async def test_git_that_was_redirected_gets_the_new_name() -> None:
    forge = Wire([RENAMED]).forge(Platform.GITHUB)
    source = await forge.clone_source("acme/pricing", "", redirected=True)
    assert source.url == "https://github.com/acme/costs.git"
