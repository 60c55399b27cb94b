"""Labels that contradict the task for longer than the grace time correct the task."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.tasks import Origin, Phase

from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, CODEX, DONE, PROCESSING, World

Start = Callable[..., Reporter]
GRACE = 1.0
LONG_GRACE = 4.0
"""Where the test has to act, or to see something, before it is over."""


def running(world: World, number: int, labeled_before: float = 60.0) -> str:
    """A task that runs, as its item shows."""
    name = world.task(number, labeled_before=labeled_before)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    until("acknowledged", lambda: world.condition(name, "Acknowledged").get("status") == "True")
    return name


def is_cancelled(world: World, name: str) -> bool:
    return bool(world.read(name)["spec"]["cancel"])


def test_a_removed_label_cancels_without_a_webhook(world: World, start: Start) -> None:
    start(grace=GRACE, check_interval=0.3)
    number = world.issue(BOT)
    name = running(world, number)
    world.remove_label(number, PROCESSING)
    until("cancelled", lambda: is_cancelled(world, name))
    assert ("labeled", PROCESSING) not in world.history(number)[3:], "the label did not come back"
    until("an Event", lambda: "LabelRemoved" in [reason for reason, _ in world.events(name)])
    world.set_phase(name, Phase.CANCELLED, message="The task was cancelled.")
    text = world.shows(number, "Coding agent: cancelled", set())
    assert "The task was cancelled: the item no longer has any of the bot's labels." in text


@pytest.mark.parametrize(("flavour", "label"), [("github", BOT), ("gitlab", CODEX)])
def test_a_removed_label_cancels_a_waiting_task(world: World, start: Start, label: str) -> None:
    start(grace=GRACE, check_interval=0.3)
    number = world.issue(label)
    name = world.task(number)
    world.set_phase(name, Phase.QUEUED, queuePosition=1)
    world.shows(number, "waiting", {label})
    world.remove_label(number, label)
    until("cancelled", lambda: is_cancelled(world, name))


@pytest.mark.long
@pytest.mark.parametrize("flavour", ["github"])
def test_a_label_that_comes_back_within_the_grace_time_cancels_nothing(world: World, start: Start) -> None:
    grace = 10.0  # a slow machine has to put it back within this time
    start(grace=grace, check_interval=0.2)
    number = world.issue(BOT)
    name = running(world, number)
    asked, taken = len(world.requests()), time.monotonic()
    world.remove_label(number, PROCESSING)
    # Once it was, the next look is at the end of the grace time: no further request may be waited for.
    until("it was seen", lambda: any(map(shows_no_label, world.requests()[asked:])))
    world.add_label(number, BOT)
    world.shows(number, "working on it", {PROCESSING})
    until("the time is over", lambda: time.monotonic() > taken + grace)
    asked = len(world.requests())
    until("some reconciles later", lambda: len(world.requests()) > asked + 5)
    assert not is_cancelled(world, name)


def shows_no_label(request: dict[str, Any]) -> bool:
    """The forge has answered that the issue has no label."""
    if request["method"] != "GET" or not request["path"].endswith("/issues/1"):
        return False
    return request["response"] is not None and not request["response"]["labels"]


@pytest.mark.parametrize("flavour", ["github"])
def test_a_closed_item_cancels(world: World, start: Start) -> None:
    start(grace=GRACE, check_interval=0.3)
    number = world.issue(BOT)
    name = running(world, number)
    world.close(number)
    until("cancelled", lambda: is_cancelled(world, name))
    until("an Event", lambda: "ItemClosed" in [reason for reason, _ in world.events(name)])
    world.set_phase(name, Phase.CANCELLED, message="The task was cancelled.")
    assert "The task was cancelled: the item was closed." in world.shows(number, "cancelled", set())


@pytest.mark.parametrize("flavour", ["github"])
def test_a_task_created_by_hand_never_had_the_label(world: World, start: Start) -> None:
    start(grace=0.2, check_interval=0.1)
    number = world.issue()
    name = world.task(number, origin=Origin.MANUAL)
    world.set_phase(name, Phase.QUEUED, queuePosition=1)
    world.shows(number, "waiting", set())
    asked = len(world.requests())
    until("some reconciles later", lambda: len(world.requests()) > asked + 10)
    assert not is_cancelled(world, name)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    world.remove_label(number, PROCESSING)
    until("then it has a label, which counts", lambda: is_cancelled(world, name))


@pytest.mark.parametrize(
    ("flavour", "label", "runner"),
    [
        ("github", BOT, None),
        pytest.param("github", CODEX, "codex", marks=pytest.mark.long),
        ("gitlab", CODEX, "codex"),
    ],
)
def test_a_label_applied_after_the_end_starts_a_run_without_a_webhook(
    world: World, start: Start, label: str, runner: str | None
) -> None:
    start(grace=LONG_GRACE, check_interval=0.3)
    number = world.issue(BOT)
    name = running(world, number)
    answered = datetime.fromisoformat(
        world.read(name)["metadata"]["annotations"]["coding-agent.dev/labeled-at"]
    )
    # Forges give whole seconds, and a label of the second of the swap is not known to be newer.
    until("the next second", lambda: datetime.now(UTC) >= answered + timedelta(seconds=1))
    result = {"branch": "coding-agent/issue-1", "changeURL": world.change_url(9)}
    world.set_phase(name, Phase.SUCCEEDED, result=result)
    world.shows(number, "Coding agent: done", {DONE})
    world.add_label(number, label)
    second = f"{name}-r2"
    made = until("a new run", lambda: world.tasks().get(second))
    assert made["spec"].get("runner") == runner
    assert made["spec"]["trigger"]["origin"] == "poll"
    assert made["spec"]["user"] == "alice", "who added the label"
    assert made["spec"]["trigger"]["labeledAt"]
    world.set_phase(second, Phase.RUNNING)
    text = world.shows(number, "working on it", {PROCESSING})
    assert world.change_url(9) in text, "the run goes on with the change of the last one"
    until("the first is settled", lambda: world.is_reported(name))
    assert len(world.comments(number)) == 1
    assert sorted(world.tasks()) == [name, second]


@pytest.mark.long
@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_label_of_our_own_account_starts_no_run(world: World, start: Start) -> None:
    start(grace=LONG_GRACE, check_interval=0.3)
    number = world.issue(BOT)
    name = running(world, number)
    world.set_phase(name, Phase.SUCCEEDED)
    world.shows(number, "Coding agent: done", {DONE})
    world.forge.add_label("acme/pricing", number, BOT, by="coding-agent-bot")
    assert not world.is_reported(name), "the reporter still watches the item"
    until("the end is settled", lambda: world.is_reported(name))
    assert list(world.tasks()) == [name]


@pytest.mark.long
def test_a_label_between_the_end_of_the_work_and_the_written_end(world: World, start: Start) -> None:
    """The webhook found a task that had not ended, so it was answered as a duplicate: only the item knows."""
    start(grace=LONG_GRACE, check_interval=3600)
    number = world.issue(BOT)
    name = running(world, number)
    world.remove_label(
        number, PROCESSING
    )  # the order of labels does not matter, only the time of the new one
    world.add_label(number, PROCESSING)
    labeled_at = _put_later(world, number)
    world.patch(name, {"metadata": {"annotations": {"coding-agent.dev/labeled-at": labeled_at}}})
    world.set_phase(name, Phase.SUCCEEDED, attempts=[_ended_before(labeled_at)])
    world.shows(number, "Coding agent: done", {BOT, DONE})
    until("a new run", lambda: world.tasks().get(f"{name}-r2"))
    until("the first is settled", lambda: world.is_reported(name))


def test_a_label_that_was_never_swapped_starts_no_run(world: World, start: Start) -> None:
    """The reporter was down during the whole task: the label on the item is the one that made the task."""
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.FAILED, attempts=[_ended_before("2999-01-01T00:00:00+00:00")])
    start(grace=0.3)
    world.shows(number, "Coding agent: failed", {"coding agent failed"})
    until("reported", lambda: world.is_reported(name))
    assert world.condition(name, "Acknowledged")["status"] == "True"
    assert list(world.tasks()) == [name]


def test_an_older_run_that_ends_late_writes_nothing(world: World, start: Start) -> None:
    start(grace=0.3, check_interval=3600)  # a check between the two steps of a person would take the label
    number = world.issue(BOT)
    first = running(world, number)
    world.patch(first, {"spec": {"cancel": True}})
    world.add_label(number, BOT)
    second = world.task(number, run=2)
    world.set_phase(
        second, Phase.QUEUED, reason="WaitingForRun", message=f"The item's run {first} has not ended."
    )
    text = world.shows(number, "waiting", {BOT, PROCESSING})
    assert f"`{second}`" in text
    world.set_phase(first, Phase.CANCELLED)
    until("the first is settled", lambda: world.is_reported(first))
    assert world.condition(first, "Acknowledged")["status"] == "True"
    assert f"`{second}`" in world.comment(number)
    world.set_phase(second, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    assert len(world.comments(number)) == 1


def _put_later(world: World, number: int) -> str:
    """A person adds the bot label; when, by the forge's clock."""
    world.add_label(number, BOT)
    item = world.forge.item("acme/pricing", number)
    times = world.forge.run(lambda: [e.created_at for e in item.events if e.label and e.label.name == BOT])
    return times[-1].isoformat()


def _ended_before(moment: str) -> dict[str, object]:
    at = datetime.fromisoformat(moment) - timedelta(seconds=1)
    text = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "number": 1,
        "job": "job-1",
        "startTime": "2026-01-01T00:00:00Z",
        "completionTime": text,
        "outcome": "Succeeded",
        "reason": "Completed",
        "counted": True,
    }
