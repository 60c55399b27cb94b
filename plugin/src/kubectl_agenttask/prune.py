"""Deletes tasks that ended long ago, without making the agent work again for a label that it has answered.

An AgentTask records up to which event of its item's history it answers (docs/decisions/0010). Once the item
shows its end, the item's comment remembers that too. The operator's sweep deletes old tasks by the same
rules; this command deletes them earlier.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from coding_agent_core.errors import SettingsError
from coding_agent_core.task.agenttask import LABEL_REPORTED, AgentTask

from kubectl_agenttask import DeniedError, ExitStatus, PluginError, UsageError, bulk
from kubectl_agenttask.installation import Installation, settings_of
from kubectl_agenttask.session import Session

YOUNGEST = timedelta(days=4)
"""A forge delivers a webhook again for up to 3 days
(https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks), and clocks
differ."""


@dataclass(frozen=True)
class Selection:
    """The decision about the tasks that ended long ago.

    Attributes:
        delete: the tasks to delete, in this order.
        keep: the other tasks, each with the reason why it has to stay.
    """

    delete: tuple[AgentTask, ...]
    keep: tuple[tuple[AgentTask, str], ...]


def select(tasks: Iterable[AgentTask], now: datetime, older_than: timedelta, *, monthly: bool) -> Selection:
    """Decide which ended tasks can be deleted.

    Args:
        monthly: whether the namespace may have a budget for a month, which counts what ended tasks spent.
    """
    delete: list[AgentTask] = []
    keep: list[tuple[AgentTask, str]] = []
    for task in tasks:
        if task.ended and task.ended_at is not None and task.ended_at + older_than <= now:
            if reason := _reason_to_stay(task, now, monthly=monthly):
                keep.append((task, reason))
            else:
                delete.append(task)
    return Selection(tuple(delete), tuple(keep))


def _reason_to_stay(task: AgentTask, now: datetime, *, monthly: bool) -> str:
    """Return the reason to keep a task that ended long ago; empty if it can be deleted."""
    if not task.readable:
        return "another release stored it"
    # A round answers no label. Any other run has taken its label off the item, unless the forge refused that.
    label_is_off = task.labels_shown or task.spec.trigger.round is not None
    if task.metadata.labels.get(LABEL_REPORTED) != "true" or not label_is_off:
        return "the reporter has not finished with it, so its label may still be on the item"
    attempts, ended = task.status.attempts, task.ended_at
    spent = any(attempt.usage is not None or attempt.allowance is not None for attempt in attempts)
    if monthly and spent and ended is not None and _month(ended) == _month(now):
        return "the budget of this month counts what it spent"
    return ""


def _month(moment: datetime) -> tuple[int, int]:
    utc = moment.astimezone(UTC)
    return utc.year, utc.month


def prune(session: Session, arguments: Namespace) -> ExitStatus:
    """`prune`: delete tasks that ended long ago.

    Raises:
        UsageError: the person would delete tasks that may still be needed.
    """
    older_than: timedelta = arguments.older_than
    if older_than < YOUNGEST:
        raise UsageError(
            f"--older-than must be at least {YOUNGEST.days}d: until then the forge may deliver the webhook "
            "of a task again, and without the task it would start a new run"
        )
    found = session.cluster.tasks(everywhere=False, active=False, repository=arguments.repo)
    selection = select(found, session.clock(), older_than, monthly=_has_monthly_budget(session))
    for task, reason in selection.keep:
        session.notes.print(f"{task.name} stays: {reason}.", soft_wrap=True)
    return bulk.for_each(
        session, selection.delete, partial(_delete, session, arguments), verb="delete", yes=arguments.yes
    )


def _has_monthly_budget(session: Session) -> bool:
    """Whether the namespace has a budget for a month. If its settings cannot be read, it may have one."""
    try:
        config = Installation(session.cluster).config()
        return config is None or settings_of(config).budgets.namespace is not None
    except (DeniedError, SettingsError):
        return True


def _delete(session: Session, arguments: Namespace, task: AgentTask) -> None:
    """Delete exactly the version of a task on which the decision was based."""
    if not session.cluster.delete(task):
        raise PluginError("it has changed meanwhile; run prune again.")
    session.show(task, arguments.output, f"agenttask {task.name} deleted")
