"""Labels that contradict the task for longer than the grace time correct the task."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from coding_agent_core.task.model import Phase
from coding_agent_testbed.until import until

from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, CODEX, DONE, PROCESSING, World

Start = Callable[..., Reporter]
GRACE = 1.0  # meant to expire
LONG_GRACE = 8.0
"""Where the test has to act, or to see something, before it is over."""


def running(world: World, number: int, labeled_before: float = 60.0) -> str:
    name = world.task(number, labeled_before=labeled_before)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    until("labels_shown", lambda: world.condition(name, "LabelsShown").get("status") == "True")
    return name


def is_cancelled(world: World, name: str) -> bool:
    return bool(world.read(name)["spec"]["cancel"])


@pytest.mark.parametrize("flavour", ["github"])
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


@pytest.mark.parametrize("flavour", ["github"])
def test_a_label_applied_after_the_end_starts_a_run_without_a_webhook(world: World, start: Start) -> None:
    start(grace=LONG_GRACE, check_interval=0.3)
    number = world.issue(BOT)
    name = running(world, number)
    result = {"branch": "coding-agent/issue-1", "changeURL": world.change_url(9)}
    world.set_phase(name, Phase.SUCCEEDED, result=result)
    world.shows(number, "Coding agent: done", {DONE})
    world.add_label(number, CODEX)
    second = f"{name}-r2"
    made = until("a new run", lambda: world.tasks().get(second))
    assert made["spec"].get("runner") == "codex"
    assert made["spec"]["trigger"]["origin"] == "poll"
    assert made["spec"]["user"] == "alice", "who added the label"
    assert made["spec"]["trigger"]["labeledAt"]
    world.set_phase(second, Phase.RUNNING)
    text = world.shows(number, "working on it", {PROCESSING})
    assert world.change_url(9) in text, "the run goes on with the change of the last one"
    until("the first is settled", lambda: world.is_reported(name))
    assert len(world.comments(number)) == 1
    assert sorted(world.tasks()) == [name, second]


@pytest.mark.parametrize("flavour", ["github"])
def test_a_label_that_was_never_swapped_starts_no_run(world: World, start: Start) -> None:
    """The reporter was down during the whole task: the label on the item is the one that made the task."""
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.FAILED, attempts=[_ended_before("2999-01-01T00:00:00+00:00")])
    start(grace=0.3)  # meant to expire
    world.shows(number, "Coding agent: failed", {"coding agent failed"})
    until("reported", lambda: world.is_reported(name))
    assert world.condition(name, "LabelsShown")["status"] == "True"
    assert list(world.tasks()) == [name]


@pytest.mark.parametrize("flavour", ["github"])
def test_an_older_run_that_ends_late_writes_nothing(world: World, start: Start) -> None:
    # A check between the two steps of a person would take the label.
    start(grace=0.3, check_interval=3600)  # meant to expire
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
    assert world.condition(first, "LabelsShown")["status"] == "True"
    assert f"`{second}`" in world.comment(number)
    world.set_phase(second, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    assert len(world.comments(number)) == 1


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


@pytest.mark.parametrize("flavour", ["github"])
def test_a_run_that_ends_while_an_older_one_is_being_stopped_is_shown(world: World, start: Start) -> None:
    """The label is taken off, applied again and taken off before the first run's pod is gone."""
    start(grace=GRACE)
    number = world.issue(BOT)
    first = running(world, number)
    world.patch(first, {"spec": {"cancel": True}})
    world.remove_label(number, PROCESSING)
    second = world.task(number, run=2)
    world.patch(second, {"spec": {"cancel": True}})
    world.set_phase(second, Phase.CANCELLED, message="The task was cancelled.")
    other = world.issue(BOT)
    world.task(other)
    world.shows(other, "waiting", {BOT})
    assert not world.is_reported(second)
    world.set_phase(first, Phase.CANCELLED, message="The task was cancelled.")
    text = world.shows(number, "Coding agent: cancelled", set())
    until("the newest run is shown", lambda: second in world.comment(number))
    assert len(world.comments(number)) == 1, text


# A removal alone may hide a new label that the history does not show yet: it counts after the last wait.
@pytest.mark.parametrize("withdrawn", ["closed", pytest.param("unlabeled", marks=pytest.mark.long)])
def test_a_withdrawal_without_a_webhook_cancels_a_task_before_it_starts(
    world: World, start: Start, withdrawn: str
) -> None:
    """There is no grace time, and the comment, which may have to wait for the forge's limits, comes later."""
    number = world.issue(BOT)
    name = world.task(number, labeled_before=60.0)
    if withdrawn == "closed":
        world.close(number)
    else:
        world.remove_label(number, BOT)
    world.fault(method="POST", path=".*/(comments|notes)$", status=503, times=None)
    start(grace=3600)
    until("cancelled", lambda: is_cancelled(world, name))
    assert world.comments(number) == []
    world.clear_faults()
    world.set_phase(name, Phase.CANCELLED, message="The task was cancelled before it started.")
    world.shows(number, "Coding agent: cancelled", set())
