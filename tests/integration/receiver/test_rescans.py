"""Which events of a real forge's webhooks say that somebody should look at a change of ours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform, forge_module
from coding_agent_core.settings.model import Settings
from coding_agent_forges.webhooks.events import Ignored, Meaning, Rescan
from coding_agent_testbed.forge import ForgeServer

from tests.fixtures.forge import REPOSITORY
from tests.fixtures.hook_receiver import HookReceiver, Received

US, OURS, THEIRS = "coding-agent-bot", "coding-agent/issue-7", "feature"
FILE = "numbers.txt"
Act = Callable[[ForgeServer, int, str], object]


def head(forge: ForgeServer, number: int) -> str:
    return forge.item(REPOSITORY, number, "change").tips.head_sha


def fail(forge: ForgeServer, number: int, _: str) -> None:
    forge.add_check(REPOSITORY, head(forge, number), "test", "failure", log=b"")


def begin(forge: ForgeServer, number: int, _: str) -> None:
    forge.add_check(REPOSITORY, head(forge, number), "test", "", log=b"")


def mention(forge: ForgeServer, number: int, _: str) -> None:
    forge.comment(REPOSITORY, number, f"@{US} please.", kind="change", by="alice")


def answer(forge: ForgeServer, number: int, _: str) -> None:
    forge.comment(REPOSITORY, number, f"@{US} is me.", kind="change", by=US)


def review(forge: ForgeServer, number: int, _: str) -> None:
    forge.review(REPOSITORY, number, "changes_requested", "No.", by="alice")


def push(forge: ForgeServer, _: int, branch: str) -> None:
    forge.push(REPOSITORY, branch, {FILE: "three\n"}, by="alice")


CASES: list[tuple[str, Act, str, str | None]] = [
    ("a check fails on a branch of ours", fail, OURS, ""),
    ("a check fails on another branch", fail, THEIRS, None),
    ("a check begins", begin, OURS, None),
    ("a mention", mention, OURS, "alice"),
    ("a mention by ourselves", answer, OURS, None),
    ("a review", review, OURS, "alice"),
    ("a push to a branch of ours", push, OURS, ""),
    ("a push to another branch", push, THEIRS, None),
]
"""What happens, and whose comment or review asks for a look; empty: something else asks for it."""


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest) -> ForgeServer:
    server: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    return server


def meaning(forge: ForgeServer, one: Received, settings: Settings) -> Meaning:
    module: Any = forge_module(Platform(forge.flavour.value), "webhook")
    found: Meaning = module.interpret(module.delivery(one.headers), one.payload, settings, datetime.now(UTC))
    return found


def meanings(forge: ForgeServer, hooks: HookReceiver, settings: Settings) -> list[Meaning]:
    return [meaning(forge, one, settings) for one in hooks.deliveries]


@pytest.mark.parametrize(("act", "branch", "author"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_looks(
    forge: ForgeServer,
    hook_receiver: HookReceiver,
    act: Act,
    branch: str,
    author: str | None,
    tmp_path: Path,
) -> None:
    looks = author is not None
    flavour = forge.flavour.value
    on = Settings.model_validate(
        {flavour: {"api_url": forge.api_url, "account": US}, "rounds": {"enabled": True}}
    )
    off = on.model_copy(update={"rounds": on.rounds.model_copy(update={"enabled": False})})
    forge.push(REPOSITORY, branch, {FILE: "two\n"}, by=US)
    number = forge.open_change(REPOSITORY, branch, "main", by=US)
    forge.add_hook(REPOSITORY, hook_receiver.url, "a secret")
    act(forge, number, branch)
    if looks:
        hook_receiver.wait_for(lambda one: isinstance(meaning(forge, one, on), Rescan))
    # This is delivered last, and shows that the events of an act without a look have arrived.
    forge.open_issue(REPOSITORY, "The last", "")
    last = {"issues", "Issue Hook"}
    hook_receiver.wait_for(
        lambda one: bool(last & {one.headers.get("x-github-event"), one.headers.get("x-gitlab-event")})
    )
    found = meanings(forge, hook_receiver, on)
    asked = [one for one in found if isinstance(one, Rescan)]
    assert {one.author for one in asked} == ({author} if looks else set()), found
    assert all(isinstance(one, Rescan | Ignored) for one in found)
    for one in asked:
        named = {(item.kind, item.number) for item in one.items}
        assert named <= {(ItemKind.CHANGE, number), (ItemKind.ISSUE, 7)}
        assert {item.repository for item in one.items} == {REPOSITORY}
        if flavour == "gitlab":
            assert one.items[0].project_id == forge.repository(REPOSITORY).id
    assert all(isinstance(one, Ignored) for one in meanings(forge, hook_receiver, off))
