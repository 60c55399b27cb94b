"""An attempt at an issue that is killed after its push: the next one opens the change, and asks no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_consumer.attempt.attempt import Attempt
from coding_agent_core.task.attempts import AttemptInput
from coding_agent_core.task.reasons import Reason

from tests.fixtures.system import REPOSITORY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.ours import both
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.scripts import finish, script, write

BRANCH, KEY = "coding-agent/issue-1", "0123456789abcdef0123456789abcdef"
TURNS = script(write("a.md", "a\n"), finish("Wrote a.\n\nIt was missing."))


async def killed(place: AttemptPlace, given: AttemptInput, **sections: Any) -> str:
    """Run an attempt that is killed before it opens the change; the commit that it has pushed."""

    async def kill(*_: object) -> None:
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attempt, "_conclude", kill)
        await place.run(given, **sections)
    assert place.open_changes() == []
    return place.system.git("rev-parse", BRANCH).strip()


@both
async def test_its_work_is_not_paid_for_again(make_place: MakePlace, flavour: str) -> None:
    place = make_place(flavour, TURNS)
    pushed = await killed(place, place.given(), comment_key=KEY)
    asked = len(place.system.model.requests)
    outcome = await place.run(place.given(attempt=2), comment_key=KEY)
    assert len(place.system.model.requests) == asked
    assert (outcome.reason, outcome.branch, outcome.commit) == (Reason.COMPLETED, BRANCH, pushed)
    [change] = place.open_changes()
    assert outcome.change_url is not None
    assert outcome.change_url.endswith(f"/{change.number}")
    assert "It was missing." in change.body
    assert place.system.git("rev-parse", BRANCH).strip() == pushed


def on_top(place: AttemptPlace) -> None:
    place.system.forge.push(REPOSITORY, BRANCH, {"b.md": "b\n"}, by="alice")


def forged(place: AttemptPlace) -> None:
    """Somebody copies the message of our commit to a commit of their own."""
    message = place.system.git("log", "-1", "--format=%B", BRANCH)
    on_top(place)
    place.system.git("update-ref", f"refs/heads/{BRANCH}", recommitted(place, message))


def recommitted(place: AttemptPlace, message: str) -> str:
    who = ("-c", "user.name=alice", "-c", "user.email=alice@example.com")
    return place.system.git(
        *who, "commit-tree", f"{BRANCH}^{{tree}}", "-p", f"{BRANCH}^", "-m", message
    ).strip()


def nothing(_: AttemptPlace) -> None: ...


@pytest.mark.parametrize(
    ("happens", "key", "differs"),
    [
        pytest.param(on_top, KEY, {}, id="a person pushes on top"),
        pytest.param(forged, KEY, {}, id="a person copies the line"),
        pytest.param(nothing, KEY, {"run": 2, "branch": BRANCH}, id="another run"),
        pytest.param(nothing, "", {}, id="no key proves it"),
    ],
)
async def test_the_agent_works_again(
    make_place: MakePlace, happens: Callable[[AttemptPlace], None], key: str, differs: dict[str, Any]
) -> None:
    place = make_place("github", TURNS)
    await killed(place, place.given(), comment_key=key)
    happens(place)
    asked = len(place.system.model.requests)
    outcome = await place.run(place.given(**{"attempt": 2} | differs), comment_key=key)
    assert len(place.system.model.requests) > asked
    assert outcome.reason is Reason.COMPLETED


async def test_work_whose_verification_failed_is_not_taken_for_finished(make_place: MakePlace) -> None:
    place = make_place("github", TURNS)
    verify = {"commands": [{"run": "false"}], "repairs": 1, "on_failure": "fail"}
    outcome = await place.run(place.given(), verify=verify, comment_key=KEY)
    assert outcome.reason is Reason.VERIFY_FAILED
    assert place.system.file_at(BRANCH, "a.md") == "a\n"
    asked = len(place.system.model.requests)
    await place.run(place.given(attempt=2), verify=verify, comment_key=KEY)
    assert len(place.system.model.requests) > asked
