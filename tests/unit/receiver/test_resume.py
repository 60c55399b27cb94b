"""Tasks that were in the memory of a process which was killed are found again, once, and no others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.forge.values import Comment
from coding_agent_core.queues.live_processes import Process
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.reporting.comment import State, comment
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_report import trigger_of
from coding_agent_core.task.runners import RunnerName
from coding_agent_forges.rest.forge import LabeledItem
from coding_agent_receiver.poller import Poller
from coding_agent_receiver.resume import resumed

from tests.fixtures.deliveries import NOW
from tests.unit.core_reporting import making
from tests.unit.core_task.test_stored_rounds import CHECKS
from tests.unit.receiver.test_poller import ListedForge, labeled

ENDED = "0" * 32


def state(phase: Phase, attempt: int = 1, **changes: Any) -> State:
    return State(uuid="uuid-1", run=3, attempt=attempt, phase=phase, **changes)


class CommentedForge(ListedForge):
    """One item with the processing label and our comment."""

    def __init__(self, shown: State | None) -> None:
        super().__init__(1)
        self.shown, self.user = shown, "bob"

    async def labeled(self, labels: object = None) -> AsyncIterator[LabeledItem]:
        if labels == {"coding agent processing"}:
            async for listed in super().labeled():
                yield listed

    async def find_comment(self, *_: object) -> Comment | None:
        if self.shown is None:
            return None
        body = comment(making.report(self.shown))
        return Comment("1", "coding-agent-bot", body, NOW)


async def polled(queue: MemoryQueue, shown: State | None) -> list[tuple[str, int, int, str]]:
    """The tasks that the queue has after a poll: uuid, run, attempt, user."""
    report = await Poller(Settings(), CommentedForge(shown), queue).once()  # type: ignore[arg-type]
    assert report.problem is None
    stop, tasks = asyncio.Event(), list[tuple[str, int, int, str]]()
    queue.drain()
    async for claim in queue.claims(stop):
        task = claim.task
        tasks.append((task.uuid, task.run, task.attempt, task.request.user))
        assert claim.redelivered
        await claim.done()
    return tasks


async def test_a_task_of_a_process_that_ended_is_resumed_once(tmp_path: Path) -> None:
    shown = state(Phase.RUNNING, process=ENDED, user="alice")
    queue = MemoryQueue(process=Process(tmp_path))
    assert await polled(queue, shown) == [("uuid-1", 3, 1, "alice")]
    assert await polled(queue, shown) == [], "the comment is from before"


@pytest.mark.parametrize("whose", ["nobody's", "of RabbitMQ or Kubernetes", "of a living process"])
async def test_other_tasks_are_left_alone(tmp_path: Path, whose: str) -> None:
    living = Process(tmp_path)
    shown = {
        "nobody's": None,
        "of RabbitMQ or Kubernetes": state(Phase.RUNNING),
        "of a living process": state(Phase.RUNNING, process=living.id),
    }[whose]
    assert await polled(MemoryQueue(process=Process(tmp_path)), shown) == []


async def test_a_task_that_a_label_brought_first_is_not_doubled(tmp_path: Path) -> None:
    queue = MemoryQueue(process=Process(tmp_path))
    await queue.submit(labeled(1))
    report = await Poller(Settings(), CommentedForge(state(Phase.RUNNING, process=ENDED)), queue).once()  # type: ignore[arg-type]
    assert report.problem is None
    assert len(queue._active) == 1


@pytest.mark.parametrize(
    ("phase", "attempt", "expected"),
    [
        (Phase.RUNNING, 2, 2),  # `decide_start` counts the attempt that died
        (Phase.BACKOFF, 2, 3),
        (Phase.QUEUED, 2, 2),
        (Phase.QUEUED, 0, 1),
        (Phase.FAILED, 3, 3),
    ],
)
def test_the_number_of_the_attempt(phase: Phase, attempt: int, expected: int) -> None:
    assert resumed(labeled(1), state(phase, attempt)).attempt == expected


def test_a_round_goes_on_as_the_same_round() -> None:
    word, found = trigger_of(CHECKS, NOW)
    task = resumed(labeled(1), state(Phase.RUNNING, round=found))
    assert (task.request.trigger.cause, task.request.trigger.round) == (word, found)


async def test_a_round_that_cannot_be_read_does_not_end_the_poll(tmp_path: Path) -> None:
    found = trigger_of(CHECKS, NOW)[1].model_copy(update={"cause": "edited"})
    assert (
        await polled(MemoryQueue(process=Process(tmp_path)), state(Phase.RUNNING, process=ENDED, round=found))
        == []
    )


def test_the_comment_knows_better_who_asked_and_for_which_agent() -> None:
    request = labeled(1).model_copy(update={"user": "bob"})
    task = resumed(request, state(Phase.RUNNING, user="alice", runner=RunnerName.CODEX))
    assert (task.request.user, task.request.runner) == ("alice", RunnerName.CODEX)
    assert resumed(request, state(Phase.RUNNING)).request.user == "bob"
