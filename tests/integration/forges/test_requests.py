"""Every method, once in success and once in failure: what goes over the wire, and what is logged of it."""

import asyncio
import dataclasses
import logging
import re
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.changes import CheckConclusion
from coding_agent_core.forge.values import CommitState, CommitStatus
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.github import app_settings
from coding_agent_forges.rest.comments import OwnComments
from coding_agent_forges.rest.forge import Forge

from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, plant_fault, push_fix
from tests.fixtures.github_graphql import validate_exchange
from tests.fixtures.github_openapi import CLOUD, ENTERPRISE, PREFIX, validate_request, validate_response
from tests.integration.forges.conftest import BRANCH, LABEL, World

MARKER = "<!-- coding-agent:status "
LAST = {Platform.GITHUB: CheckConclusion.FAILURE, Platform.GITLAB: CheckConclusion.CANCELLED}
"""What the forges show of a status with the state `error`."""
METHODS = {name for kind in (OwnComments, Forge) for name in vars(kind) if not name.startswith("_")} - {
    "platform",
    "host",
    "aclose",
    "app_source",
    "signed_commits",  # tests/integration/forges/test_commits.py
}


async def everything(world: World) -> set[str]:
    """Call every public method for an issue and a change; the names of those called."""
    called = set[str]()

    def call(name: str) -> Any:
        called.add(name)
        return getattr(world.forge, name)

    await call("whoami")()
    await call("commit_identity")()
    await call("token_expiry")()
    await call("commit_identity_of")("alice")
    await call("commit_identity_of")("nobody")
    await asyncio.to_thread(push_fix, world.server, world.folder, BRANCH)
    await call("find_change")(world.issue, branch=BRANCH)
    change = await call("open_change")(
        world.issue, branch=BRANCH, base="main", title="Fix it", body="For you", draft=True
    )
    await call("mark_ready")(world.item(ItemKind.CHANGE, change.number))
    for item in (world.issue, world.item(ItemKind.CHANGE, change.number)):
        kind = item.kind.value
        world.server.edit(REPOSITORY, item.number, title="New", body="New", kind=kind, by="alice")
        assert await call("revisions")(await world.forge.read(item), datetime(2020, 1, 1, tzinfo=UTC))
        await call("locate")(item.model_copy(update={"repository": ""}))
        await call("add_label")(item, LABEL)
        await call("add_label")(item, "area/api ü")
        for listed in [one async for one in call("labeled")()]:
            await call("request_of")(listed, {})
        await call("read")(item)
        await call("read_state")(item)
        assert (await call("trust")(item)).trusted, "the repository is private"
        await call("label_application")(item)
        await call("label_history")(item, None)
        assert (await call("item_history")(item, None)).events[-1].label == LABEL
        await call("remove_label")(item, "area/api ü")
        await call("remove_label")(item, "not there")
        await call("upsert_comment")(item, MARKER, f"{MARKER}1 -->")
        await call("upsert_comment")(item, MARKER, f"{MARKER}2 -->")
        await call("find_comment")(item, MARKER)
        written = (await call("comments")(item)).values[-1].id
        await call("read_comment")(item, written)
        await call("react")(item, written)
        await call("has_reacted")(item, written)
        await call("permission")(item, "reader")
    item = world.item(ItemKind.CHANGE, change.number)
    world.server.start_thread(REPOSITORY, item.number, "Why?", path="pricing/discount.py", line=1)
    details = await call("read")(item)
    item_url = details.url
    world.server.add_check(REPOSITORY, details.head_sha, "unit", "failure", log=b"It broke.")
    assert len((await call("discussion")(item)).threads) == 1
    assert len((await call("failed_checks")(details)).failed) == 1
    # A token without the permission for check runs.
    plant_fault(world.server, path=".*/check-runs$", status=403)
    without = await call("failed_checks")(details)
    if world.platform is Platform.GITHUB:
        assert without.unreadable == ("the check runs (403)",)
        assert [check.name for check in without.failed] == ["CI / unit"]
    assert len((await call("open_changes")()).snapshots) == 1
    snapshot = await call("snapshot")(item)
    assert snapshot.head_commit == details.head_sha
    [thread], [check] = snapshot.threads, snapshot.checks
    assert await call("check_log")(item, check.id) == "It broke."
    await call("rerun_check")(item, check.id)
    await call("reply")(item, thread, "Because.")
    await call("request_review")(item, ["alice"])
    await call("resolve")(item, thread)
    again = await call("snapshot")(item)
    assert again.threads[0].resolved
    assert [remark.body for remark in again.threads[0].remarks] == ["Why?", "Because."]
    assert [reviewer.login for reviewer in again.requested_reviewers] == ["alice"]
    assert [one.conclusion for one in again.checks] == [None]
    for state in CommitState:
        await call("set_status")(item, details.head_sha, CommitStatus("mine", state, "It says so.", item_url))
    [mine] = [one for one in (await call("snapshot")(item)).checks if one.name == "mine"]
    assert (mine.conclusion, mine.errors) == (LAST[world.platform], "It says so.")
    await call("clone_source")(REPOSITORY)
    assert await call("current_path")(REPOSITORY) == REPOSITORY
    await call("branch_facts")(REPOSITORY, BRANCH)
    await call("branch_facts")(REPOSITORY, "not/there")
    # A file is not part of an API: what is asked for it is tried in test_forge.py.
    assert await call("attachment")(item, "https://elsewhere.example/a.png", limit=1) is None
    assert await call("redeliver_missed")(Settings()) == 0  # no webhook is configured
    return called


@pytest.mark.parametrize("world", ["github"], indirect=True)
async def test_every_method_works_with_the_newer_version_of_githubs_api(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox leaves out of its answers what that version no longer has."""
    monkeypatch.setattr(app_settings, "_SERVER_VERSION", "2026-03-10")
    forge = connect_forge(world.settings, Platform.GITHUB, clock=Clock(sleep=lambda _: asyncio.sleep(0)))
    newer = dataclasses.replace(world, forge=forge)
    world.server.sandbox.requests.clear()
    try:
        assert await everything(newer) == METHODS
    finally:
        await forge.aclose()
    answers = [entry.response for entry in world.server.sandbox.requests if isinstance(entry.response, dict)]
    assert any("assignees" in answer for answer in answers)
    assert not any("assignee" in answer for answer in answers)


async def test_requests_and_answers_fit_githubs_description_and_no_secret_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "httpx2", "httpcore2", "coding_agent", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name or None)
    world.server.sandbox.requests.clear()
    assert await everything(world) == METHODS
    sent = list(world.server.sandbox.requests)
    assert all(entry.status < 500 for entry in sent)
    assert len({(entry.method, entry.path) for entry in sent}) > 15
    different = {(entry.method, entry.status, re.sub(r"\d+", "1", entry.path)): entry for entry in sent}
    for entry in different.values() if world.platform is Platform.GITHUB else ():
        if entry.path == "/api/graphql":
            validate_exchange(entry.body, entry.response)
            continue
        for product in (ENTERPRISE, CLOUD):
            path = entry.path.removeprefix(PREFIX)
            validate_request(entry.method, path, entry.query, entry.body, product=product)
            validate_response(entry.method, path, entry.status, entry.response, product=product)
    texts = []
    for fault in ({"status": 401}, {"status": 418}, {"status": 200, "body": f"echo {BOT_TOKEN}"}):
        plant_fault(world.server, path=".*", **fault)
        with pytest.raises(ForgeError) as caught:
            await world.forge.read_state(world.issue)
        texts.append("".join(traceback.format_exception(caught.value)) + repr(caught.value))
    plant_fault(world.server, path=".*", close="before", times=4)
    with pytest.raises(ForgeError) as caught:
        await world.forge.read_state(world.issue)
    texts.append("".join(traceback.format_exception(caught.value)) + repr(caught.value))
    logged = "\n".join(f"{record.name} {record.getMessage()} {record.args}" for record in caplog.records)
    assert "httpx2" in logged  # the loggers did speak
    assert "httpcore2" in logged
    for text in (logged, *texts, repr(world.forge), repr(vars(world.forge))):
        assert BOT_TOKEN not in text
