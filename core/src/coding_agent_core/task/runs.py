"""The runs of an item among AgentTasks: their order, what they answer, and the patches that say so. Pure.

`labels.decide` decides; these functions read its facts from AgentTasks and record its decisions on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.agenttask import (
    ANNOTATION_ANSWERED,
    ANNOTATION_CANCEL_CAUSE,
    ANNOTATION_CANCELLED,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_RESCAN,
    LABEL_REPORTED,
    RESCAN,
    AgentTask,
)
from coding_agent_core.task.item_history import Position
from coding_agent_core.task.labels import Run
from coding_agent_core.task.model import ForgeTime, Frozen, Item, WithdrawalCause, task_name


def runs_of(item: Item, tasks: Iterable[AgentTask]) -> list[AgentTask]:
    """Return the runs of an item, the newest last.

    Tasks that cannot be read are left out, and so are those of another item, because the API server selects
    tasks by a hash that two items may share.

    The newest run is the active one, otherwise one that is being cancelled, otherwise the one that was
    created last; duplicates of another run come first. The numbers do not decide, because after a person has
    deleted run 1, the next run can be run 1 again.
    """
    same = [task for task in tasks if task.readable and task.spec.item.identity == item.identity]
    return sorted(same, key=_order)


def newest_of(runs: Iterable[AgentTask]) -> AgentTask:
    """Return the newest of at least one run of an item, as `runs_of` orders them."""
    return max(runs, key=_order)


def next_run(item: Item, runs: Iterable[AgentTask], tasks: Iterable[AgentTask]) -> int:
    """Return the number of the item's next run: the first one whose task name is not taken.

    A task of another item can have such a name, because a person may choose any name, and two items may have
    the same hash.

    Args:
        runs: the runs of the item.
        tasks: all tasks whose names could be taken.
    """
    number = max((task.spec.run for task in runs), default=0) + 1
    taken = {task.name for task in tasks}
    while task_name(item, number) in taken:
        number += 1
    return number


def works(task: AgentTask) -> bool:
    """Whether the run is active: it has not ended, and nobody has asked to stop it."""
    return task.readable and not task.spec.cancel and not task.over


def answered_by(task: AgentTask) -> Position | None:
    """Return the position up to which the run answers its item's events; `None` before the first read.

    A withdrawal says what was answered, and not the attempt that was at work then. Otherwise the last read of
    the last attempt counts: the reporter may have recorded an event that came after the work.
    """
    noted = Position.parse(task.metadata.annotations.get(ANNOTATION_ANSWERED))
    attempts = task.status.attempts
    if task.ended and not task.spec.cancel and attempts:
        return Position.parse(attempts[-1].answered) or noted
    return noted


def run_facts(task: AgentTask) -> Run:
    """Return what `labels.decide` must know of a run."""
    return Run(
        name=task.name,
        number=task.spec.run,
        answered=answered_by(task),
        by_label=task.spec.trigger.by_label,
        is_round=task.spec.trigger.round is not None,
        ended=task.over,
        cancelled=task.spec.cancel,
    )


def confirmation(position: Position) -> dict[str, Any]:
    """Return the merge patch that records up to which event a run answers."""
    return _annotated({ANNOTATION_ANSWERED: str(position)})


def duplicate_of(other: str) -> dict[str, Any]:
    """Return the merge patch that cancels a run which answers nothing, because another one is active."""
    because = f"{other} already covers it"
    nothing = str(Position())
    return _cancelled(
        {ANNOTATION_CANCELLED: because, ANNOTATION_DUPLICATE_OF: other, ANNOTATION_ANSWERED: nothing}
    )


def cancellation(why: str, cause: WithdrawalCause, answered: Position | None = None) -> dict[str, Any]:
    """Return the merge patch that cancels a task and records the reason.

    Args:
        answered: the position that the task answers then; `None` leaves what is recorded.
    """
    annotations = {ANNOTATION_CANCELLED: why, ANNOTATION_CANCEL_CAUSE: cause.value}
    if answered is not None:
        annotations[ANNOTATION_ANSWERED] = str(answered)
    return _cancelled(annotations)


def is_superseded(task: AgentTask) -> bool:
    """Whether the task was cancelled because the item was closed, or because people took over.

    A round that is cancelled for this reason is not counted, so that its cause can return when the change is
    reopened.
    """
    cause = task.metadata.annotations.get(ANNOTATION_CANCEL_CAUSE)
    return task.spec.cancel and any(one.supersedes for one in WithdrawalCause if one == cause)


class StoredRescan(Frozen):
    """A request on a task to read its item again, to scan a change, or both, which events have made.

    Attributes:
        at: when the last event came. Each event writes its own time, so that a scan which began earlier does
            not remove the request.
        labels: whether the item's labels or its state may have changed.
        event_at: the time of that change by the forge's clock. The reporter reads until the history shows an
            event as new as this, or for a minute.
        changes: whether a change is to be scanned.
        change: the number of the change; `None` if an event did not name it, or if events named several.
        author: the login of the comment's author; empty if any of the events was not a comment.
    """

    at: datetime | None = None
    labels: bool = False
    event_at: ForgeTime | None = None
    changes: bool = False
    change: int | None = None
    author: str = ""


def stored_rescan(task: AgentTask) -> StoredRescan | None:
    """Return the request that events have stored on a task; `None` if there is none."""
    text = task.metadata.annotations.get(ANNOTATION_RESCAN)
    if text is None:
        return None
    try:
        return StoredRescan.model_validate_json(text)
    except ValidationError:
        return StoredRescan(labels=True, changes=True)  # somebody edited it


def rescan_item(task: AgentTask, now: datetime, event_at: datetime | None) -> dict[str, Any]:
    """Return the merge patch that asks the reporter to read the item's labels and its state again."""
    known = stored_rescan(task) or StoredRescan()
    return _rescan(task, known.model_copy(update={"at": now, "labels": True, "event_at": event_at}))


def rescan_change(task: AgentTask, now: datetime, items: Sequence[Item], author: str) -> dict[str, Any]:
    """Return the merge patch that asks the reporter to scan a change, or all changes if the event named none.

    Args:
        items: the change, or the issue that its branch names.
        author: the login of the comment's author; empty if the event was not a comment.
    """
    known = stored_rescan(task) or StoredRescan()
    change = next((item.number for item in items if item.kind is ItemKind.CHANGE), None)
    if known.changes:
        change = change if change == known.change else None
        author = author if known.author else ""
    update = {"at": now, "changes": True, "change": change, "author": author}
    return _rescan(task, known.model_copy(update=update))


def rescanned(task: AgentTask, *, item: bool) -> dict[str, Any] | None:
    """Return the merge patch that removes a request after its scan; `None` if there is no such request.

    Args:
        item: whether the item's labels were read, and not a change scanned.
    """
    known = stored_rescan(task)
    if known is None or not (known.labels if item else known.changes):
        return None
    if known.changes if item else known.labels:
        of_change = {"changes": False, "change": None, "author": ""}
        left = known.model_copy(update={"labels": False, "event_at": None} if item else of_change)
        return _annotated({ANNOTATION_RESCAN: _to_json(left)})
    patch = _annotated({ANNOTATION_RESCAN: None})
    if not item and task.metadata.labels.get(LABEL_REPORTED) == RESCAN:
        patch["metadata"]["labels"] = {LABEL_REPORTED: "true"}
    return patch


def item_read(task: AgentTask, answers: Position | None, *, done: bool) -> dict[str, Any] | None:
    """Return the merge patch for a run whose item was read; `None` if there is nothing to record.

    Args:
        answers: the position that the run answers; `None` leaves what is recorded.
        done: whether the item need not be read again for the request on the task.
    """
    annotations: dict[str, str | None] = {}
    if answers is not None and answers != answered_by(task):
        annotations[ANNOTATION_ANSWERED] = str(answers)
    if done and (asked := rescanned(task, item=True)) is not None:
        annotations |= asked["metadata"]["annotations"]
    return _annotated(annotations) if annotations else None


def _rescan(task: AgentTask, rescan: StoredRescan) -> dict[str, Any]:
    patch = _annotated({ANNOTATION_RESCAN: _to_json(rescan)})
    if task.metadata.labels.get(LABEL_REPORTED) == "true":
        patch["metadata"]["labels"] = {LABEL_REPORTED: RESCAN}
    return patch


def _to_json(rescan: StoredRescan) -> str:
    return rescan.model_dump_json(exclude_defaults=True)


def comes_after(task: AgentTask, other: AgentTask) -> bool:
    """Whether a run counts as newer than another run of the item once both have ended."""
    return _order_of_ended(task) > _order_of_ended(other)


def _annotated(annotations: Mapping[str, str | None]) -> dict[str, Any]:
    return {"metadata": {"annotations": annotations}}


def _cancelled(annotations: Mapping[str, str]) -> dict[str, Any]:
    return _annotated(annotations) | {"spec": {"cancel": True}}


def _order(task: AgentTask) -> tuple[bool, bool, bool, datetime, int]:
    """Return the sort key of an item's runs, which puts the newest last."""
    original, created, run = _order_of_ended(task)
    active = not task.over
    return original, active and not task.spec.cancel, active, created, run


def _order_of_ended(task: AgentTask) -> tuple[bool, datetime, int]:
    original = ANNOTATION_DUPLICATE_OF not in task.metadata.annotations
    return original, task.metadata.created, task.spec.run
