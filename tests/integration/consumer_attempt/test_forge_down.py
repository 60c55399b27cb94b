"""The forge is away at each point of an attempt: nothing fails, nothing is doubled.

Every outage lasts until the attempt itself waits: it outlasts the retries inside of one call.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.until import until

from tests.fixtures.system import BOT, DONE, PROCESSING, StartSystem
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, run, script, write

FIRST = "coding-agent/issue-1"
WAITS = "The forge is not available, retrying"
MINUTES = 300
"""Seconds that the attempts have: more than any outage here on a busy machine."""
pytestmark = pytest.mark.timeout(MINUTES + 60)

UNAVAILABLE, CUT, HANGS = {"status": 503}, {"close": "before"}, {"delay_ms": 60_000}
ANSWER_LOST = {"close": "after"}
ITEM = r"/api/v\d/(repos/acme/pricing/issues|projects/\d+/issues)/1$"
CLONE = r"/acme/pricing\.git/info/refs"
COMMENTS = r"/api/v\d/.*/1/(comments|notes)"
PUSH = r"/acme/pricing\.git/git-receive-pack"
CHANGES = r"/api/v\d/.*/(pulls|merge_requests)"
WINDOWS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "clone": ("gitlab", "GET", CLONE, CUT),
    "who edited the item is read": ("github", "POST", r"/api/graphql", CUT),
    "comments": ("gitlab", "GET", COMMENTS, UNAVAILABLE),
    "push": ("gitlab", "POST", PUSH, UNAVAILABLE),
    "push, its answer lost": ("github", "POST", PUSH, ANSWER_LOST),
    "the change is opened": ("github", "POST", CHANGES, CUT),
    "the change is opened, its answer lost": ("gitlab", "POST", CHANGES, ANSWER_LOST),
}


@pytest.fixture
def waits(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    """Whether an attempt waits for the forge."""
    caplog.set_level(logging.WARNING)
    return lambda: WAITS in caplog.text


@pytest.mark.long
@pytest.mark.parametrize("window", WINDOWS)
async def test_an_outage_is_waited_out(make_place: MakePlace, waits: Callable[[], bool], window: str) -> None:
    flavour, method, path, kind = WINDOWS[window]
    place = make_place(flavour, script(write("a.md", "a\n"), finish("Wrote it.")))
    forge = place.system.forge
    outage = forge.fault(method=method, path=path, times=None, **kind)
    # What an earlier attempt pushed is given, so that comments are read for the prompt alone.
    attempt = asyncio.create_task(place.run(place.given(timeout=MINUTES, branch=FIRST)))
    await asyncio.to_thread(until, "it waits", lambda: waits() or attempt.done(), timeout=MINUTES)
    assert kind is ANSWER_LOST or not attempt.done(), attempt.result()
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
    outage = place.system.forge.fault(path=PUSH, times=None, **CUT)
    consumer = {"checkpoint_interval": 1e-9}
    attempt = asyncio.create_task(place.run(place.given(timeout=MINUTES), consumer=consumer))

    def last_push_waits() -> bool:
        return any(one.name == "coding_agent.attempt" and WAITS in one.message for one in caplog.records)

    await asyncio.to_thread(until, "it waits", lambda: last_push_waits() or attempt.done(), timeout=MINUTES)
    assert "Could not push the work so far" in caplog.text
    outage.end()
    outcome = await attempt
    assert (outcome.reason, len(place.open_changes())) == (Reason.COMPLETED, 1), outcome.message


@pytest.mark.parametrize(
    ("window", "kind"),
    [(ITEM, UNAVAILABLE), (CLONE, HANGS), (COMMENTS, CUT)],
    ids=["item", "clone", "comments"],
)
async def test_a_stop_before_the_work_ends_the_waiting_at_once(
    make_place: MakePlace, waits: Callable[[], bool], window: str, kind: dict[str, Any]
) -> None:
    place = make_place("github", script(finish()))
    stop = asyncio.Event()
    outage = place.system.forge.fault(path=window, times=None, **kind)
    given = place.given(timeout=MINUTES, branch=FIRST)
    attempt = asyncio.create_task(place.run(given, stop=stop, grace=MINUTES))
    await asyncio.to_thread(
        until,
        "it waits",
        lambda: waits() or (kind is HANGS and outage.hits) or attempt.done(),
        timeout=MINUTES,
    )
    stop.set()
    async with asyncio.timeout(20):  # a call alone would take longer: 30 s, and git's 600 s
        outcome = await attempt
    assert (outcome.reason, outcome.exit_code) == (Reason.CANCELLED, 143)
    assert outcome.message == "The attempt was stopped before it started."
    assert place.system.model.requests == []


@pytest.mark.parametrize(("window", "kind"), [(ITEM, UNAVAILABLE), (COMMENTS, CUT)], ids=["item", "comments"])
async def test_an_attempt_gives_its_place_to_others_if_the_forge_stays_down_before_the_work(
    make_place: MakePlace, window: str, kind: dict[str, Any]
) -> None:
    place = make_place("github", script(finish()))
    place.system.forge.fault(path=window, times=None, **kind)
    outcome = await place.run(place.given(timeout=MINUTES, branch=FIRST), patience=0.5)  # meant to expire
    assert (outcome.reason, outcome.exit_code) == (Reason.FORGE_DOWN, 75)
    assert place.system.model.requests == []


async def test_a_stopped_attempt_still_pushes_when_the_forge_comes_back_in_time(
    make_place: MakePlace, waits: Callable[[], bool]
) -> None:
    place = make_place("github", script(write("a.md", "a\n"), run("sleep 600"), finish()))
    stop = asyncio.Event()
    attempt = asyncio.create_task(place.run(place.given(timeout=MINUTES), stop=stop, grace=MINUTES))
    await place.asked(2)
    outage = place.system.forge.fault(path=".*", times=None, **CUT)
    stop.set()
    await asyncio.to_thread(until, "the push waits", lambda: waits() or attempt.done(), timeout=MINUTES)
    outage.end()
    outcome = await attempt
    assert (outcome.reason, outcome.branch) == (Reason.CANCELLED, FIRST)
    assert outcome.message == "The attempt was stopped."
    assert place.system.file_at(FIRST, "a.md") == "a\n"


LONGER = 6
"""Requests that fail: more than one call tries, so that the task itself has to wait."""
GITHUB = "/api/v3/repos/acme/pricing"

OUTAGES: list[dict[str, Any]] = [
    {"path": f"{GITHUB}/issues/1/comments", "method": "GET", "times": LONGER, "status": 503},
    {"path": r"/acme/pricing\.git", "times": 3, "status": 503},
    {"path": f"{GITHUB}/issues/1/labels", "method": "POST", "times": 1, "close": "after"},
    {"path": f"{GITHUB}/issues/1/labels", "method": "POST", "times": LONGER, "status": 503},
    {"path": f"{GITHUB}/issues/1/labels/", "method": "DELETE", "times": 1, "close": "after"},
    {"path": f"{GITHUB}/issues/1/labels/", "method": "DELETE", "times": 2, "status": 503},
    {"path": f"{GITHUB}/issues/1/comments", "method": "POST", "times": 1, "close": "after"},
    {"path": f"{GITHUB}/issues/comments/", "method": "PATCH", "times": LONGER, "status": 503},
]


@pytest.mark.long
def test_outages_cost_nothing_and_double_nothing(start_system: StartSystem) -> None:
    system = start_system("github", script(write("a.md", "a\n"), finish()))
    system.start_webhook()
    for fault in OUTAGES:
        system.fault(**fault)
    system.put_label(1)
    system.wait_for_label(1, DONE, seconds=MINUTES)
    [comment] = system.comments(1)
    assert "Coding agent: done" in comment.body
    assert "attempt 1 of 3" in comment.body, "an outage of the forge is not a failed attempt"
    assert len(system.changes()) == 1
    flow = [event for event in system.label_history(1) if event[1] in (BOT, PROCESSING, DONE)]
    assert flow == [
        ("labeled", BOT),
        ("labeled", PROCESSING),
        ("unlabeled", BOT),
        ("labeled", DONE),
        ("unlabeled", PROCESSING),
    ]
