"""One reconcile of one task on its item.

A reconcile reads the task and its item, executes its commands (docs/decisions/0015), and decides. Then it
writes the comment and the labels, acknowledges the label swap, and corrects the task if people's labels
contradict it. Every step can be repeated and nothing depends on memory: after a kill -9 between any two
requests, the next reconcile leads to the same result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import inf
from typing import Any
from weakref import WeakValueDictionary

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeArchivedError,
    ForgeError,
    ForgeListTooLongError,
    ForgeNotFoundError,
    ForgeUnavailableError,
    NotYetError,
    RequestKind,
)
from coding_agent_core.forge.values import MARKER, ItemState, LabelEvent
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.queues.interfaces import TaskSink
from coding_agent_core.reporting.command_execution import (
    CommandMetrics,
    ExecutionResult,
    LastTask,
    Target,
    execute,
)
from coding_agent_core.reporting.comment import (
    Links,
    Report,
    comment,
    read_state,
    swap_labels,
    without_change_rounds,
)
from coding_agent_core.rounds.notes import as_written
from coding_agent_core.runtime.metrics import REGISTRY, Counter
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.admission import (
    answered,
    cancellation,
    check_label,
    comes_after,
    latest_of,
    must_check_label,
    next_run_is_near,
    runs_of,
)
from coding_agent_core.task.agenttask import (
    LABEL_REPORTED,
    AgentTask,
    Condition,
    Event,
    UnreadableTaskError,
)
from coding_agent_core.task.commands import LABEL_COMMANDS, PENDING, executed, next_command
from coding_agent_core.task.model import CommandName, Origin, Phase, Trigger, Withdrawal, WithdrawalCause
from coding_agent_core.task.round_record import RerunEntry, RoundRecord, with_reruns
from coding_agent_forges.rest.forge import Forge

from coding_agent_operator.cluster.controller import Requeue
from coding_agent_operator.reporter.commit_statuses import commit_statuses
from coding_agent_operator.reporter.item_plan import (
    CANCELLATION_CAUSES,
    CORRECTION_EVENTS,
    ItemPlan,
    LabelContradiction,
    needs_history,
    phase_to_show,
    plan_item,
)
from coding_agent_operator.reporter.report import (
    TaskMemory,
    cancellation_cause,
    has_problem,
    labels_shown,
    link_problems,
    report_of,
    reported,
    unreported,
    with_round,
)

_logger = logging.getLogger("reporter.reconcile")
_COMMAND_METRICS = CommandMetrics(REGISTRY)
SHOWN = Counter(
    "coding_agent_reporter_shown", "Label changes that showed a new phase on an item, by phase.", ["phase"]
)
CORRECTIONS = Counter(
    "coding_agent_reporter_corrections",
    "Tasks corrected because their item contradicted them, by contradiction "
    "(item_closed, label_removed, label_applied_again).",
    ["contradiction"],
)

_OTHER_RUN_S = 1.0
"""Seconds until an ended run is looked at again while an older one is being stopped or a newer one made."""
_REPORTED = {"metadata": {"labels": {LABEL_REPORTED: "true"}}}
"""The merge patch that takes a task out of the reporter's watch."""


class NotConfiguredError(CodingAgentError):
    """The item's forge is not configured here or has no token here."""


class TaskChangedError(CodingAgentError):
    """The task changed during the reconcile; the caller queues it again."""


class ItemLocks:
    """The locks of items, so that a reconcile and a scan do not write the same comment at the same time."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, item: str) -> asyncio.Lock:
        """Return the lock of the item with this hash; it is kept while a task holds it or waits for it."""
        return self._locks.setdefault(item, asyncio.Lock())


@dataclass(frozen=True)
class ForgeContext:
    """The dependencies of the reconciles of one forge's tasks.

    Attributes:
        clocks: the times of the reporter that are no settings.
        clock: returns the aware time.
        monotonic: returns the monotonic time in seconds.
        notes: returns the notes of a change's rounds by the hash of the item.
        reruns: returns the checks of a change's head that scans asked to run again, by the hash of the item.
        change_rounds: returns the summary of the rounds of an issue's change, by the hash of the issue and
            the URL of the change.
        locks: are held while comments are read and written.
    """

    forge: Forge
    labels: Labels
    links: Links
    tasks: AgentTasks
    sink: TaskSink
    clocks: Development
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    notes: Callable[[str], tuple[str, ...]] = lambda _: ()
    reruns: Callable[[str], tuple[RerunEntry, ...]] = lambda _: ()
    change_rounds: Callable[[str, str], str] = lambda _, __: ""
    locks: ItemLocks = field(default_factory=ItemLocks)


async def reconcile(context: ForgeContext, seen: AgentTask, memory: TaskMemory) -> Requeue | None:
    """Make the item show the task's current state.

    Returns:
        When to reconcile again if nothing happens (`after=None`: at the next check); `None` if never again.

    Args:
        seen: the task as the watch showed it. The reconcile reads it again if there is anything to do.

    Raises:
        ForgeError: a request to the forge failed.
        ApiError, QueueUnavailableError: a request to the API server failed.
        TaskChangedError: the task changed during the reconcile.
        NotConfiguredError: the host is configured as another platform.
    """
    source = seen.spec.source
    if context.forge.platform is not source.platform:
        raise NotConfiguredError(
            f"{source.host} is configured as {context.forge.platform}, not as {source.platform}."
        )
    # A task with a reporting problem is read again: the problem may be over.
    commanded = seen.metadata.labels.get(LABEL_COMMANDS) == PENDING
    must_read = commanded or must_check_label(seen) or has_problem(seen)
    if not must_read and (requeue := _nothing_to_do(context, seen, memory)) is not None:
        return requeue
    memory.due = -inf
    listed = list(await context.tasks.runs(seen.spec.item))
    task = next((run for run in listed if run.uid == seen.uid), None)
    if task is None:
        # If a person removed the task's labels, the task is not in that list.
        task = await context.tasks.newest(seen)
        if task is None:
            return None
        listed.append(task)
    if await _execute_command(context, task):
        raise TaskChangedError(f"{seen.name} was changed by a command")
    memory.cause = cancellation_cause(task)
    *earlier, newest = runs_of(seen.spec.item, listed)
    if newest.uid != task.uid:
        # The item shows another run, so this one does not write on it.
        if not task.ended:
            return Requeue()
        if comes_after(task, newest):
            return Requeue(_OTHER_RUN_S)  # it ended before it could work, while an older run is being stopped
        return await _finish(context, task, labels_shown("The item shows a newer run."))
    if task.spec.cancel and not task.over and any(comes_after(run, task) for run in earlier):
        # A later run has ended before it could work, while this one is being stopped. The comment may show
        # the later run already, and has to show its end as soon as this one has ended.
        return Requeue(_OTHER_RUN_S)
    if task.ended and next_run_is_near(task, context.clock()):
        return Requeue(_OTHER_RUN_S)  # the label is the next run's, so this one must not remove it
    try:
        async with context.locks.of(task.item_hash):
            return await _newest(context, task, earlier[::-1], memory)
    except (ForgeArchivedError, ForgeNotFoundError) as error:
        # Nobody can change the item, it was deleted, or our token cannot see it: nothing can be shown there.
        return await _not_shown(context, task, memory, error)


async def _not_shown(
    context: ForgeContext, task: AgentTask, memory: TaskMemory, error: ForgeArchivedError | ForgeNotFoundError
) -> Requeue | None:
    archived = isinstance(error, ForgeArchivedError)
    if task.ended:
        gone = "The item is gone, or the token cannot see it."
        return await _finish(context, task, labels_shown("The repository is archived." if archived else gone))
    if archived:
        raise error
    problem = Event("Warning", "ItemNotFound", str(error))
    await record_problem(context.tasks, task, memory, problem, context.clock())
    return Requeue()


def _nothing_to_do(context: ForgeContext, task: AgentTask, memory: TaskMemory) -> Requeue | None:
    """Return when to reconcile again if the comment is up to date; `None` if there is something to do."""
    now = context.monotonic()
    remaining = memory.due - now
    if memory.comment is None or remaining <= 0:
        return None
    report = _report(context, task, memory)
    if comment(report) == memory.comment.body:
        return Requeue(remaining)
    position_due = memory.written + context.clocks.comment_interval - now
    if _without_position(report) == memory.without_position and position_due > 0:
        return Requeue(min(remaining, position_due))
    return None


async def _execute_command(context: ForgeContext, task: AgentTask) -> bool:
    """Execute one command that waits in the AgentTask, and remove it; return `False` if none waits."""
    stored = next_command(task)
    if stored is None:
        return False

    try:
        command = stored.on(task.spec)
    except (UnreadableTaskError, ValueError) as error:
        _logger.warning("A command on %s cannot be read: %s", task.name, error)
        result = ExecutionResult.FAILED
    else:

        async def last() -> LastTask:
            runs = runs_of(command.item, await context.tasks.runs(command.item))
            if not runs:
                return LastTask()
            ended = runs[-1].status.terminal_phase or Phase.RUNNING
            return LastTask(Phase.CANCELLED if runs[-1].spec.cancel else ended, runs[-1].spec.runner)

        result = await execute(command, Target(context.forge, context.sink, last), _COMMAND_METRICS)
    done = result in (ExecutionResult.DONE, ExecutionResult.NOTHING)
    patch = executed(task, stored, stopped=done and stored.name is CommandName.CANCEL)
    # If the task has changed, the command stays and is executed again, which does no harm.
    await context.tasks.patch(task, patch)
    return True


async def _newest(
    context: ForgeContext, task: AgentTask, earlier: list[AgentTask], memory: TaskMemory
) -> Requeue | None:
    now = context.clock()
    item, plan = await _planned(context, task, memory, now)
    if plan.correct is not None and plan.correct_first:
        # The comment may have to wait for the forge's limits, and until then an attempt could start.
        await _correct(context, task, plan.correct, item=item)
        memory.pending = None
        return Requeue(0.5)
    postponed: NotYetError | None = None
    try:
        await _update_comment(context, task, earlier, memory, is_open=item.open)
    except NotYetError as error:
        if error.kind is not RequestKind.CREATE:
            raise
        postponed = error  # the labels cost less than a new comment, and they are also a sign
    newest = await _answered(context, task, plan.answered_until)
    await swap_labels(context.forge, task.spec.item, plan.add, plan.remove)
    phase = phase_to_show(task)
    if plan.add or plan.remove:
        SHOWN.labels(phase).inc()
        _logger.info(
            "%s: labels added: %s; labels removed: %s", task.spec.item.display, plan.add, plan.remove
        )
    if postponed is not None:
        if plan.labels_shown:
            await context.tasks.set_conditions(newest, (labels_shown("The item shows our labels."),), now)
        raise postponed
    memory.pending = plan.pending
    if plan.correct is not None:
        await _correct(context, newest, plan.correct, item=item)
        memory.pending = None
        return Requeue(0.5)
    if must_check_label(task):
        newest = await _patched(context, newest, check_label(None))
    if task.ended and memory.end_shown is None and plan.pending is None:
        memory.end_shown = now
    wanted: list[Condition] = [labels_shown("The item shows our labels.")] if plan.labels_shown else []
    if has_problem(task):
        wanted.append(reported())
    recorded = await context.tasks.set_conditions(newest, tuple(wanted), now)
    memory.problem = ""
    if plan.finished:
        return await _finish(context, recorded)
    since = memory.pending.since if memory.pending is not None else memory.end_shown
    if since is None or not (task.ended or memory.pending):
        return Requeue()
    return Requeue(max(0.05, context.clocks.grace - (now - since).total_seconds()))


async def _planned(
    context: ForgeContext, task: AgentTask, memory: TaskMemory, now: datetime
) -> tuple[ItemState, ItemPlan]:
    """Read the item and plan the actions on it."""
    item, removal_reported = await context.forge.read_state(task.spec.item), must_check_label(task)
    history: tuple[LabelEvent, ...] = ()
    if needs_history(task, item, context.labels, removal_reported=removal_reported):
        read = await context.forge.label_history(task.spec.item, task.spec.trigger.labeled_at)
        history = read.values  # what is left out is older, so `plan_item` finds no application there either
    plan = plan_item(
        task,
        item,
        context.labels,
        history=history,
        own_login=await context.forge.whoami() if history else "",
        removal_reported=removal_reported,
        pending=memory.pending,
        end_shown=memory.end_shown,
        now=now,
        grace=timedelta(seconds=context.clocks.grace),
    )
    return item, plan


async def _answered(context: ForgeContext, task: AgentTask, until: datetime | None) -> AgentTask:
    """Record, before a label is removed, that the task answers the label's applications up to a time.

    Args:
        until: the time by the forge's clock; `None` if no label is removed.

    Raises:
        TaskChangedError: the task has changed since its item was read, or the item has a newer run.
    """
    if until is None:
        return task
    # The runs are read again: a newer run may just have been created for the label, which must then stay.
    uids = [run.uid for run in runs_of(task.spec.item, await context.tasks.runs(task.spec.item))]
    if task.uid in uids and uids[-1] != task.uid:
        raise TaskChangedError(f"{task.name} is no longer the newest run of its item")
    patch = answered(task, until, await context.forge.whoami())
    return task if patch is None else await _patched(context, task, patch)


async def _patched(context: ForgeContext, task: AgentTask, patch: Mapping[str, Any]) -> AgentTask:
    """Apply a merge patch to the task and return the result.

    Raises:
        TaskChangedError: the task has changed since its item was read.
    """
    patched = await context.tasks.patch(task, patch)
    if patched is None:
        raise TaskChangedError(f"{task.name} has changed since its item was read")
    return patched


async def _update_comment(
    context: ForgeContext, task: AgentTask, earlier: list[AgentTask], memory: TaskMemory, *, is_open: bool
) -> None:
    """Update the item's one comment; send no request if it is up to date.

    Args:
        is_open: whether the item is open. Later rounds of its change are not shown on a closed item.
    """
    item = task.spec.item
    if memory.remembered is None:
        # After a start, the comment is searched before any write: an earlier process may have died between
        # the forge's write and its answer, and a second comment would follow.
        memory.comment = await context.forge.find_comment(item, MARKER)
        remembered = read_state(memory.comment.body) if memory.comment else None
        memory.remembered = () if remembered is None else (remembered,)
        memory.rounds = (remembered and remembered.rounds) or RoundRecord()
    # An earlier run can end while this one waits for it.
    states = [report_of(run, context.labels, context.links).state for run in earlier]
    memory.earlier = (*states, *memory.remembered)
    for run in reversed(earlier):
        memory.rounds = with_round(memory.rounds, run)
    report = _report(context, task, memory)
    text, known = comment(report), as_written(memory.comment.body) if memory.comment else ""
    if not is_open and without_change_rounds(text) == without_change_rounds(known):
        text = known
    if memory.comment is None or known != text:
        for problem in link_problems(task, context.links):
            _logger.warning("%s: not shown on the item: %s", task.spec.item.display, problem)
        # The comment comes last, because it says which statuses were written.
        await _set_statuses(context, task, memory)
        written = await context.forge.upsert_comment(item, MARKER, text, known=memory.comment)
        # Keep the text as we wrote it, because forges change line endings.
        memory.comment = replace(written, body=text)
        memory.written = context.monotonic()
    memory.without_position = _without_position(report)


async def _set_statuses(context: ForgeContext, task: AgentTask, memory: TaskMemory) -> None:
    """Write the commit statuses that were not written yet. A status that the forge refuses is not retried."""
    item, known = task.spec.item, read_state(memory.comment.body) if memory.comment else None
    for one in commit_statuses(task):
        if one.key in memory.statuses or (known is not None and one.key in known.statuses):
            continue
        try:
            await context.forge.set_status(item, one.commit, one.status)
        except (ForgeUnavailableError, NotYetError):
            raise
        except ForgeError as error:
            _logger.warning("%s: a commit status is not shown: %s", item.display, error)
        memory.statuses.add(one.key)


def _report(context: ForgeContext, task: AgentTask, memory: TaskMemory) -> Report:
    rounds = with_reruns(memory.rounds, context.reruns(task.item_hash))
    report = report_of(
        task,
        context.labels,
        context.links,
        memory.earlier,
        memory.cause,
        rounds=rounds,
        notes=context.notes(task.item_hash),
    )
    # After a withdrawal nothing is added; see `comment_with_change_rounds`.
    change = report.state.change_url if report.state.phase is Phase.SUCCEEDED else None
    return replace(report, rounds=context.change_rounds(task.item_hash, change)) if change else report


def _without_position(report: Report) -> str:
    return comment(replace(report, position=None))


async def _finish(context: ForgeContext, task: AgentTask | None, *wanted: Condition) -> Requeue | None:
    """Set conditions of an ended task, and stop watching it."""
    if task is not None and wanted:
        task = await context.tasks.set_conditions(task, wanted, context.clock())
    return None if task is None or await context.tasks.patch(task, _REPORTED) else Requeue(0.0)


async def _correct(
    context: ForgeContext,
    task: AgentTask,
    contradiction: LabelContradiction,
    *,
    item: ItemState,
) -> None:
    """Cancel the task or start a new run, as the item's labels demand.

    Args:
        task: the task as it was when the correction was decided.
        item: the item as it was read.

    Raises:
        TaskChangedError: the task has changed since then; nothing was corrected.
    """
    if contradiction is LabelContradiction.LABEL_APPLIED_AGAIN:
        await _start_new_run(context, task, item)
    else:
        closed = contradiction is LabelContradiction.ITEM_CLOSED
        withdrawal = Withdrawal(
            item=task.spec.item,
            reason=CANCELLATION_CAUSES[contradiction],
            cause=WithdrawalCause.CLOSED if closed else WithdrawalCause.UNLABELED,
            at=item.updated_at,
        )
        await _patched(context, task, cancellation(withdrawal.reason, withdrawal.cause, withdrawal.before))
    CORRECTIONS.labels(contradiction).inc()
    reason, message = CORRECTION_EVENTS[contradiction]
    _logger.info("%s: %s", task.spec.item.display, message)
    event = Event("Normal", reason, message)
    await context.tasks.emit(event, task, context.clock())


async def _start_new_run(context: ForgeContext, task: AgentTask, item: ItemState) -> None:
    now = context.clock()
    try:
        applied = await context.forge.label_application(task.spec.item)
    except ForgeListTooLongError:
        applied = None  # the run's attempt asks again, and says so
    # From here on, every program treats such a label on the item as a new application.
    again = labels_shown("The label was applied again.")
    if await context.tasks.set_conditions(task, (again,), now) is None:
        raise TaskChangedError(f"{task.name} is gone")
    latest = latest_of(runs_of(task.spec.item, await context.tasks.runs(task.spec.item)))
    known = latest.answered_until if latest is not None else None
    # If the item's runs already know this time, admission would answer "duplicate". The application now asks
    # for its own run, so such a time is left out.
    at = applied.at if applied is not None and (known is None or applied.at > known) else None
    present = item.labels | ({applied.label} if applied is not None else set())
    request = task.spec.request.model_copy(
        update={
            "user": applied.user if applied is not None and applied.user else task.spec.user,
            "trigger": Trigger(origin=Origin.POLL, labeled_at=at, received_at=now),
            "runner": context.labels.runner(present),
        }
    )
    submission = await context.sink.submit(request)
    if submission.duplicate is not None:
        _logger.warning("%s: no new run: %s", task.spec.item.display, submission.duplicate)


async def record_problem(
    tasks: AgentTasks, task: AgentTask, memory: TaskMemory, problem: Event, now: datetime
) -> None:
    """Record in a condition and an Event why the item does not show the task's state; once for each reason.

    Raises:
        ApiError: the API server refused.
    """
    if memory.problem == problem.reason:
        return
    _logger.warning(
        "%s does not show its task's state: %s: %s", task.spec.item.display, problem.reason, problem.message
    )
    # This is set before the requests: a reconcile that shows the task in the meantime clears it.
    memory.problem = problem.reason
    try:
        newest = await tasks.newest(task)
        if newest is not None:
            written = await tasks.set_conditions(newest, (unreported(problem.reason, problem.message),), now)
            if written is not None and written.reported:
                # Meanwhile the reporter stopped watching the task, so nothing else corrects the condition.
                await tasks.set_conditions(written, (reported(),), now)
                return
            await tasks.emit(problem, task, now)
    except ApiError:
        memory.problem = ""
        raise
