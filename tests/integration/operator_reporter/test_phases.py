"""What a person sees on the item while its task goes from waiting to its end."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from coding_agent_core.task.model import Phase
from coding_agent_testbed.until import until

from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.statuses import attempt
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, World

Start = Callable[..., Reporter]


def test_from_waiting_to_done(world: World, start: Start) -> None:
    start()
    number = world.issue("bug", BOT)
    name = world.task(number)
    world.set_phase(name, Phase.QUEUED, queuePosition=3)
    world.shows(number, "waiting, number 3 in the queue", {BOT})

    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    until("labels_shown", lambda: world.condition(name, "LabelsShown").get("status") == "True")

    failed = [attempt(1, datetime.now(UTC), ended=True)]
    world.set_phase(
        name,
        Phase.BACKOFF,
        attempts=failed,
        reason="ModelUnavailable",
        message="The model did not answer. Another attempt will follow.",
        nextAttemptTime="2026-01-02T03:04:05Z",
    )
    text = world.shows(number, "will try again at 2026-01-02 03:04:05 UTC", {PROCESSING})
    assert "The model did not answer" in text
    assert "reason ModelUnavailable" in text

    world.set_phase(name, Phase.RUNNING, attempts=[*failed, attempt(2, datetime.now(UTC), ended=False)])
    assert "attempt 2 of 3" in world.shows(number, "working on it", {PROCESSING})

    result = {
        "branch": "coding-agent/issue-1",
        "changeURL": world.change_url(9),
        "summary": "Fixed the discount.",
        "usage": {
            "requests": 12,
            "inputTokens": 34567,
            "outputTokens": 890,
            "cost": {"amount": "0.42", "currency": "USD"},
        },
    }
    world.set_phase(name, Phase.SUCCEEDED, result=result, message="The task is done.")
    text = world.shows(number, "Coding agent: done", {DONE})
    for expected in (
        world.change_url(9),
        "Fixed the discount.",
        "12 model requests, 34,567 tokens in, 890 out",
        "cost 0.42 USD",
        f"task `{name}`",
    ):
        assert expected in text
    assert len(world.comments(number)) == 1, "one comment, edited in place"
    assert world.history(number) == [
        ("labeled", BOT),
        ("labeled", PROCESSING),
        ("unlabeled", BOT),
        ("labeled", DONE),
        ("unlabeled", PROCESSING),
    ], "the new label comes before the old one goes"
    assert "bug" in world.forge.labels("acme/pricing", number), "labels of people are left alone"
    until("reported", lambda: world.is_reported(name))


@pytest.mark.parametrize("flavour", ["github"])
def test_nothing_is_written_when_nothing_has_changed(world: World, start: Start) -> None:
    """Neither by further events of the task, nor by a restart of the reporter."""
    first = start(check_interval=3600)
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    until("labels_shown", lambda: world.condition(name, "LabelsShown").get("status") == "True")
    asked = len(world.requests())
    world.patch(name, {"metadata": {"annotations": {"a": "b"}}})
    other = world.task(world.issue(BOT))
    world.set_phase(other, Phase.RUNNING)
    until("the other one", lambda: world.condition(other, "LabelsShown"))
    ours = {str(number), *(str(comment.id) for comment in world.comments(number))}
    mine = [request for request in world.requests()[asked:] if ours & set(request["path"].split("/"))]
    assert mine == [], "nothing at all was asked of the forge"
    first.stop()
    asked = len(world.requests())
    start(check_interval=0.2)
    until("the item is looked at", lambda: len(world.requests()) > asked + 8)
    assert [entry for entry in world.requests()[asked:] if entry["method"] != "GET"] == []
