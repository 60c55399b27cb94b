"""The forge is away at each point of an attempt (503, refused, hanging): nothing fails, nothing is doubled.

Every outage lasts until the attempt itself waits: it outlasts the retries inside of one call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from coding_agent_core.reasons import Reason

from tests.fixtures.system import until
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.consumer_attempt.outage import Kind, Outage
from tests.integration.consumer_attempt.place import AttemptPlace
from tests.integration.main_job.scripts import finish, run, script, write

FIRST = "coding-agent/issue-1"
WAITS = "The forge is not available, retrying"
MINUTES = 300
"""Seconds that the attempts have: more than any outage here on a busy machine."""

ITEM = r"GET /api/v\d/(repos/acme/pricing/issues|projects/\d+/issues)/1$"
CLONE = r"GET /acme/pricing\.git/info/refs\?service=git-upload-pack"
IDENTITY = r"GET /api/v\d/user$"
GRAPHQL = r"POST /api/graphql"
COMMENTS = r"GET /api/v\d/.*/1/(comments|notes)"
PUSH = r"GET /acme/pricing\.git/info/refs\?service=git-receive-pack"
PUSH_MIDDLE = r"POST /acme/pricing\.git/git-receive-pack"
LOOK_FOR_CHANGE = r"GET /api/v\d/.*/(pulls|merge_requests)\?"
OPEN_CHANGE = r"POST /api/v\d/.*/(pulls|merge_requests)"

WINDOWS: list[tuple[str, str, str, Kind, bool]] = [
    ("clone", "gitlab", CLONE, "refused", False),
    ("identity", "github", IDENTITY, "503", False),
    ("who edited the item is read", "github", GRAPHQL, "refused", False),
    ("comments", "gitlab", COMMENTS, "503", False),
    ("push, in the middle", "gitlab", PUSH_MIDDLE, "503", False),
    ("push, its answer lost", "github", PUSH_MIDDLE, "503", True),
    ("the change is looked for", "gitlab", LOOK_FOR_CHANGE, "refused", False),
    ("the change is opened", "github", OPEN_CHANGE, "refused", False),
    ("the change is opened, its answer lost", "gitlab", OPEN_CHANGE, "503", True),
]


@contextmanager
def behind(place: AttemptPlace) -> Iterator[Outage]:
    """An outage to come, between the place's attempts and its forge."""
    with Outage(place.system.forge.base_url) as outage:
        place.forge_url = outage.url
        yield outage


@pytest.fixture
def waits(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    """Whether an attempt waits for the forge."""
    caplog.set_level(logging.WARNING)
    return lambda: WAITS in caplog.text


@pytest.mark.long
@pytest.mark.parametrize(
    ("flavour", "window", "kind", "served"),
    [case[1:] for case in WINDOWS],
    ids=[case[0] for case in WINDOWS],
)
async def test_an_outage_is_waited_out(
    make_place: MakePlace,
    waits: Callable[[], bool],
    flavour: str,
    window: str,
    kind: Kind,
    served: bool,
) -> None:
    place = make_place(flavour, script(write("a.md", "a\n"), finish("Wrote it.")))
    with behind(place) as outage:
        outage.from_request(window, kind, served=served)
        # What an earlier attempt pushed is given, so that comments are read for the prompt alone.
        attempt = asyncio.create_task(place.run(place.given(timeout=MINUTES, branch=FIRST)))
        await asyncio.to_thread(until, lambda: waits() or attempt.done(), "it waits", MINUTES)
        assert not attempt.done(), attempt.result()
        outage.end()
        outcome = await attempt
    assert (outcome.reason, outcome.branch) == (Reason.COMPLETED, FIRST), outcome.message
    [change] = place.system.changes()
    assert (outcome.change_url or "").endswith(f"/{change.number}")
    assert place.system.file_at(FIRST, "a.md") == "a\n"
    assert place.system.git("rev-list", "--count", f"main..{FIRST}").strip() == "1"
    assert place.system.comments(1) == []
    assert len(place.system.model.requests) == 2, "the model was asked once for each step"


@pytest.mark.long
async def test_a_checkpoint_that_cannot_be_pushed_costs_nothing(
    make_place: MakePlace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    place = make_place("github", script(write("a.md", "a\n"), run("true"), finish()))

    def last_push_waits() -> bool:
        return any(
            record.name == "coding_agent.attempt" and WAITS in record.message for record in caplog.records
        )

    with behind(place) as outage:
        outage.from_request(PUSH, "refused")
        consumer = {"checkpoint_interval": 0.001}
        attempt = asyncio.create_task(place.run(place.given(timeout=MINUTES), consumer=consumer))
        await asyncio.to_thread(
            until, lambda: last_push_waits() or attempt.done(), "the last push waits", MINUTES
        )
        assert "Could not push the work so far" in caplog.text
        outage.end()
        outcome = await attempt
    assert (outcome.reason, len(place.open_changes())) == (Reason.COMPLETED, 1), outcome.message


@pytest.mark.parametrize(
    ("window", "kind"),
    [(ITEM, "503"), (CLONE, "hangs"), (COMMENTS, "refused")],
    ids=["item", "clone", "comments"],
)
async def test_a_stop_before_the_work_ends_the_waiting_at_once(
    make_place: MakePlace, waits: Callable[[], bool], window: str, kind: Kind
) -> None:
    place = make_place("github", script(finish()))
    stop = asyncio.Event()
    with behind(place) as outage:
        outage.from_request(window, kind)
        given = place.given(timeout=MINUTES, branch=FIRST)
        attempt = asyncio.create_task(place.run(given, stop=stop, grace=MINUTES))
        stuck = outage.begun.is_set if kind == "hangs" else waits
        await asyncio.to_thread(until, lambda: stuck() or attempt.done(), "it waits", MINUTES)
        stop.set()
        async with asyncio.timeout(20):  # a call alone would take longer: 30 s, and git's 600 s
            outcome = await attempt
    assert (outcome.reason, outcome.exit_code) == (Reason.CANCELLED, 143)
    assert outcome.message == "The attempt was stopped before it started."
    assert place.system.model.requests == []


async def test_a_stopped_attempt_still_pushes_when_the_forge_comes_back_in_time(
    make_place: MakePlace, waits: Callable[[], bool]
) -> None:
    place = make_place("github", script(write("a.md", "a\n"), run("sleep 600"), finish()))
    stop = asyncio.Event()
    with behind(place) as outage:
        attempt = asyncio.create_task(place.run(place.given(timeout=MINUTES), stop=stop, grace=MINUTES))
        await place.asked(2)
        outage.begin("refused")
        stop.set()
        await asyncio.to_thread(until, lambda: waits() or attempt.done(), "the push waits", MINUTES)
        outage.end()
        outcome = await attempt
    assert (outcome.reason, outcome.branch) == (Reason.CANCELLED, FIRST)
    assert outcome.message == "The attempt was stopped."
    assert place.system.file_at(FIRST, "a.md") == "a\n"
