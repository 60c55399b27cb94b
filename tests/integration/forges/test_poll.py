"""A poll over a sandbox forge: what cannot be read holds back nothing else."""

import asyncio
from pathlib import Path

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_forges.connect import connect_forge
from coding_agent_receiver.poller import Poller
from coding_agent_testbed.forge import ForgeServer

from tests.fixtures.deliveries import RecordingSink
from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, push_fix
from tests.integration.forges.conftest import BRANCH, World

LABEL = "coding agent"


@pytest.mark.parametrize("status", [403, 451, 500])
async def test_the_items_behind_one_that_cannot_be_read_are_found(world: World, status: int) -> None:
    opened = [world.server.open_issue(REPOSITORY, f"Issue {index}", labels=[LABEL]) for index in range(3)]
    numbers, hidden = set(opened), max(opened)  # the newest comes first in the lists
    fault = world.server.fault(path=rf".*/issues/{hidden}/.*", status=status, times=None)
    sink = RecordingSink()
    poller = Poller(world.settings, world.forge, sink)
    report = await poller.once()
    assert {request.item.number for request in sink.submitted} == numbers - {hidden}
    assert (report.found, report.failed, report.problem) == (3, 1, None)
    fault.end()
    await poller.once()
    assert {request.item.number for request in sink.submitted} == numbers


@pytest.mark.parametrize(("hidden", "status"), [("issues", 500), ("fork", 403), ("fork", 500)])
async def test_a_gitlab_list_that_cannot_be_read_holds_back_no_other(
    gitlab_forge: ForgeServer, tmp_path: Path, hidden: str, status: int
) -> None:
    fork = gitlab_forge.fork(REPOSITORY, "mallory/pricing")
    push_fix(gitlab_forge, tmp_path, BRANCH)
    number = gitlab_forge.open_change(REPOSITORY, BRANCH, "main", title="Fix it", by="alice")
    gitlab_forge.add_label(REPOSITORY, number, LABEL, kind="change", by="alice")
    gitlab = {
        "api_url": gitlab_forge.api_url,
        "personal_access_token": BOT_TOKEN,
        "project_id": [fork.id, REPOSITORY],
    }
    settings = Settings.model_validate({"gitlab": gitlab})
    projects = "/api/v4/projects"
    path = f"{projects}/[^/]+/issues" if hidden == "issues" else f"{projects}/{fork.id}/.*"
    gitlab_forge.fault(path=path, status=status, times=None)
    forge = connect_forge(settings, Platform.GITLAB, clock=Clock(sleep=lambda _: asyncio.sleep(0)))
    sink = RecordingSink()
    try:
        report = await Poller(settings, forge, sink).once()
    finally:
        await forge.aclose()
    assert [(one.item.kind, one.item.number) for one in sink.submitted] == [(ItemKind.CHANGE, number)]
    assert report.problem is not None
