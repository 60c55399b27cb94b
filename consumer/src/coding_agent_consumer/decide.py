"""May a claimed task begin? Decided from what the item shows: its labels and the state in our comment. Pure.

The consumer holds the item's lock from this decision until the attempt ends: nobody else works on the item.
"""

from __future__ import annotations

from dataclasses import dataclass

from coding_agent_core.forge.protocol import ItemDetails
from coding_agent_core.messages import QueuedTask
from coding_agent_core.outcome import Phase
from coding_agent_core.reasons import Reason
from coding_agent_core.reporting import State
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Origin


@dataclass(frozen=True)
class Start:
    """Start this attempt.

    Attributes:
        previous: state of an earlier run or attempt in the comment.
        continues: this is a further attempt of the same task.
    """

    run: int
    attempt: int
    previous: State | None
    continues: bool


@dataclass(frozen=True)
class Drop:
    """There is nothing to do; acknowledge the message."""

    why: str


@dataclass(frozen=True)
class Abandon:
    """The task has begun before and does not go on: report this end."""

    state: State
    reason: Reason
    message: str


def decide(
    task: QueuedTask, details: ItemDetails, state: State | None, labels: Labels, max_attempts: int
) -> Start | Drop | Abandon:
    """Decide what becomes of a message."""
    flow = {labels.bot_label, labels.processing_label} & details.labels
    if state is not None and state.uuid == task.uuid:
        return _own(task, details, state, flow, max_attempts)
    if not details.open:
        return Drop("the item is closed")
    if labels.bot_label not in details.labels and task.request.trigger.origin is not Origin.MANUAL:
        return Drop("the item does not carry the label any more: it was removed, or another task answered it")
    run = task.run if state is None else max(task.run, state.run + 1)
    return Start(run=run, attempt=task.attempt, previous=state, continues=False)


def _own(
    task: QueuedTask, details: ItemDetails, state: State, flow: set[str], max_attempts: int
) -> Start | Drop | Abandon:
    """The message was begun before: by a consumer that died, or as an earlier attempt."""
    if state.phase.terminal:
        return Drop("the task has ended already")
    if not details.open:
        return Abandon(state, Reason.CANCELLED, "The item was closed while its task was waiting to go on.")
    if not flow and task.request.trigger.origin is not Origin.MANUAL:
        return Abandon(state, Reason.CANCELLED, "The label was removed while the task was waiting to go on.")
    match state.phase:
        case Phase.QUEUED:  # stopped in good order, e.g. by a restart of the consumer: costs no attempt
            attempt = max(task.attempt, state.attempt)
        case Phase.BACKOFF:
            if task.attempt <= state.attempt:
                return Drop("the next attempt is in the queue already")
            attempt = task.attempt
        case _:  # its consumer died
            attempt = max(task.attempt, state.attempt + 1)
    if attempt > max_attempts:
        return Abandon(
            state,
            Reason.INTERNAL,
            f"The agent's process died in attempt {state.attempt} of {max_attempts}; "
            "it is not retried. See the consumer's log around that time.",
        )
    return Start(run=state.run, attempt=attempt, previous=state, continues=True)
