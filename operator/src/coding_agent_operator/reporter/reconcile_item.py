"""One reconcile of one task on its item.

A reconcile reads the task and its item, executes its commands (docs/decisions/0015), and decides. Then it
writes the comment and the labels, acknowledges the label swap, and corrects the task if people's labels
contradict it. Every step can be repeated and nothing depends on memory: after a kill -9 between any two
requests, the next reconcile leads to the same result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf
from typing import Any

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeArchivedError,
    ForgeNotFoundError,
    NotYetError,
    RequestKind,
)
from coding_agent_core.forge.values import ItemState
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.reporting.command_execution import (
    CommandMetrics,
    ExecutionResult,
    LastTask,
    Target,
    execute,
)
from coding_agent_core.reporting.comment import swap_labels
from coding_agent_core.runtime.metrics import REGISTRY, Counter
from coding_agent_core.task.admission import Cancel, Keep
from coding_agent_core.task.agenttask import (
    LABEL_REPORTED,
    RESCAN,
    AgentTask,
    Condition,
    Event,
    UnreadableTaskError,
)
from coding_agent_core.task.commands import LABEL_COMMANDS, PENDING, executed, next_command
from coding_agent_core.task.item_history import ItemEvent, Position
from coding_agent_core.task.labels import Decision, answered_before, decide
from coding_agent_core.task.model import (
    CommandName,
    Origin,
    Phase,
    Submission,
    TaskRequest,
    Trigger,
    Withdrawal,
)
from coding_agent_core.task.runs import (
    answered_by,
    cancellation,
    comes_after,
    confirmation,
    duplicate_of,
    item_read,
    rescan_item,
    rescanned,
    run_facts,
    runs_of,
    stored_rescan,
    works,
)
from coding_agent_core.task.task_store import TaskStore

from coding_agent_operator.cluster.controller import Requeue
from coding_agent_operator.reporter.forge_context import ForgeContext
from coding_agent_operator.reporter.item_comment import remembered_state, requeue_if_current, update_comment
from coding_agent_operator.reporter.item_plan import (
    CANCELLATIONS,
    CORRECTION_EVENTS,
    WAITS,
    Correction,
    carried_over,
    correction_of,
    is_behind,
    must_read_history,
    phase_to_show,
    plan_item,
)
from coding_agent_operator.reporter.report import (
    TaskMemory,
    cancellation_cause,
    has_problem,
    labels_shown,
    reported,
    unreported,
)

_logger = logging.getLogger("reporter.reconcile")
_COMMAND_METRICS = CommandMetrics(REGISTRY)
SHOWN = Counter(
    "coding_agent_reporter_shown", "Label changes that showed a new phase on an item, by phase.", ["phase"]
)
CORRECTIONS = Counter(
    "coding_agent_reporter_corrections",
    "Tasks cancelled, and runs created, because of their item's history, by correction "
    "(item_closed, label_removed, label_applied, duplicate).",
    ["correction"],
)

_OTHER_RUN_S = 1.0
"""Seconds until an ended run is reconciled again while an older one is being stopped or a newer one made."""


class NotConfiguredError(CodingAgentError):
    """The item's forge is not configured here or has no token here."""


class TaskChangedError(CodingAgentError):
    """The task changed during the reconcile; the caller queues it again."""


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
    rescan = stored_rescan(seen)
    must_read = commanded or (rescan is not None and rescan.labels) or has_problem(seen)
    if (
        not must_read
        and memory.unsure_since is None
        and (requeue := requeue_if_current(context, seen, memory)) is not None
    ):
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
    runs = runs_of(seen.spec.item, listed)
    if await _execute_command(context, task, runs):
        raise TaskChangedError(f"{seen.name} was changed by a command")
    memory.cause = cancellation_cause(task)
    *earlier, newest = runs
    if newest.uid != task.uid:
        await _hand_over(context, task, newest)
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
    try:
        async with context.locks.of(task.item_hash):
            context.locks.write_next(task.item_hash, memory)
            return await _newest(context, runs, memory)
    except (ForgeArchivedError, ForgeNotFoundError) as error:
        # Nobody can change the item, it was deleted, or our token cannot see it: nothing can be shown there.
        return await _not_shown(context, task, memory, error)


async def _not_shown(
    context: ForgeContext, task: AgentTask, memory: TaskMemory, error: ForgeArchivedError | ForgeNotFoundError
) -> Requeue | None:
    archived = isinstance(error, ForgeArchivedError)
    if task.ended:
        gone = "The item is gone, or the token cannot see it."
        shown = labels_shown("The repository is archived." if archived else gone)
        recorded = await context.tasks.set_conditions(task, (shown,), context.clock())
        # A request to read the item cannot be answered, so it does not keep the task in the watch.
        return None if recorded is None else await _stop_watching(context, recorded, "true")
    if archived:
        raise error
    problem = Event("Warning", "ItemNotFound", str(error))
    await record_problem(context.tasks, task, memory, problem, context.clock())
    return Requeue()


async def _hand_over(context: ForgeContext, task: AgentTask, newest: AgentTask) -> None:
    """Move a request to read the item to its newest run, which alone answers it."""
    rescan = stored_rescan(task)
    if rescan is not None and rescan.labels:
        await _patched(context, newest, rescan_item(newest, context.clock(), rescan.event_at))
        if (patch := rescanned(task, item=True)) is not None:
            await _patched(context, task, patch)


@dataclass(frozen=True)
class _Requests:
    """Accepts what a command asks for."""

    context: ForgeContext
    runs: Sequence[AgentTask]

    async def submit(self, request: TaskRequest) -> Submission:
        return await self.context.sink.submit(await _with_trust(self.context, request))

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        unread = [run for run in self.runs if works(run) and answered_by(run) is None]
        if unread:
            # The run answers the labels that are there now, so that they do not ask for another one.
            history = await self.context.forge.item_history(withdrawal.item, None)
            for run in unread:
                await _patched(self.context, run, confirmation(history.position()))
        return await self.context.sink.withdraw(withdrawal)


async def _execute_command(context: ForgeContext, task: AgentTask, runs: Sequence[AgentTask]) -> bool:
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

        requests = _Requests(context, runs)
        target = Target(context.forge, requests, last, context.commands)
        result = await execute(command, target, _COMMAND_METRICS)
    done = result in (ExecutionResult.DONE, ExecutionResult.NOTHING)
    patch = executed(task, stored, stopped=done and stored.name is CommandName.CANCEL)
    # If the task has changed, the command stays and is executed again, which does no harm.
    await context.tasks.patch(task, patch)
    return True


async def _newest(context: ForgeContext, runs: Sequence[AgentTask], memory: TaskMemory) -> Requeue | None:
    """Carry out what the item's history demands; if it demands nothing, show the newest run on the item."""
    now, task = context.clock(), runs[-1]
    seen = await _read(context, runs, memory)
    item, decision = seen.item, seen.decision
    if decision is not None:
        correction = correction_of(decision, item)
        if correction is not None:
            await _correct(context, runs, decision, correction, item)
            return Requeue(0.5)
        runs = await _record(context, runs, decision, unsure=seen.unsure)
        task = runs[-1]
    remembered = Position.parse((await remembered_state(context, task, memory)).answered)
    past = answered_before([run_facts(run) for run in runs], remembered)
    memory.answered = str(past) if past is not None else None
    plan = plan_item(
        task,
        item,
        context.labels,
        unsure=seen.unsure,
        end_shown=memory.end_shown,
        now=now,
        grace=timedelta(seconds=context.clocks.grace),
    )
    postponed: NotYetError | None = None
    try:
        await update_comment(context, task, list(runs[-2::-1]), memory, is_open=item.open)
    except NotYetError as error:
        if error.kind is not RequestKind.CREATE:
            raise
        postponed = error  # the labels cost less than a new comment, and they are also a sign
    await swap_labels(context.forge, task.spec.item, plan.add, plan.remove)
    phase = phase_to_show(task)
    if plan.add or plan.remove:
        SHOWN.labels(phase).inc()
        _logger.info(
            "%s: labels added: %s; labels removed: %s", task.spec.item.display, plan.add, plan.remove
        )
    if postponed is not None:
        if plan.labels_shown:
            await context.tasks.set_conditions(task, (labels_shown("The item shows our labels."),), now)
        raise postponed
    if task.ended and memory.end_shown is None and not seen.unsure:
        memory.end_shown = now
    wanted: list[Condition] = [labels_shown("The item shows our labels.")] if plan.labels_shown else []
    if has_problem(task):
        wanted.append(reported())
    recorded = await context.tasks.set_conditions(task, tuple(wanted), now)
    memory.problem = ""
    if plan.finished:
        return await _finish(context, recorded)
    if memory.unsure_since is not None:
        unsure_for = context.monotonic() - memory.unsure_since
        return Requeue(next((wait - unsure_for for wait in WAITS if wait > unsure_for), 0.0))
    if memory.end_shown is None:
        return Requeue()
    return Requeue(max(0.05, context.clocks.grace - (now - memory.end_shown).total_seconds()))


@dataclass(frozen=True)
class _ItemRead:
    """What was read of an item.

    Attributes:
        decision: what its history demands; `None` if the history was not read.
        unsure: whether the history may lack an event, so that it has to be read again.
    """

    item: ItemState
    decision: Decision | None = None
    unsure: bool = False


async def _read(context: ForgeContext, runs: Sequence[AgentTask], memory: TaskMemory) -> _ItemRead:
    """Read the item, and its history if it can change anything."""
    item_of_task, rescan = runs[-1].spec.item, stored_rescan(runs[-1])
    if rescan is not None and rescan.labels and rescan.at != memory.rescan_at:
        memory.unsure_since, memory.rescan_at = None, rescan.at
    facts = [run_facts(run) for run in runs]
    item = await context.forge.read_state(item_of_task)
    if not must_read_history(runs, item, context.labels, unsure=memory.unsure_since is not None):
        return _ItemRead(item)
    remembered = Position.parse((await remembered_state(context, runs[-1], memory)).answered)
    base = answered_before(facts, remembered)
    active = [run.answered for run in facts if run.works]
    # The earliest position counts: what one run answers may be new for another.
    after = None if base is None or None in active else base
    history = await context.forge.item_history(item_of_task, after)
    unsure_for = context.monotonic() - (memory.unsure_since or context.monotonic())
    history = replace(history, current=unsure_for >= WAITS[-1])
    facts = [carried_over(history, run, fact) for run, fact in zip(runs, facts, strict=True)]
    decision = decide(history, facts, remembered)
    unsure = not history.current and (decision.unsure or is_behind(history, runs))
    memory.unsure_since = (memory.unsure_since or context.monotonic()) if unsure else None
    return _ItemRead(ItemState(history.present, history.open, item.updated_at), decision, unsure)


async def _record(
    context: ForgeContext, runs: Sequence[AgentTask], decision: Decision, *, unsure: bool
) -> list[AgentTask]:
    """Record what the runs answer, and that the item was read; return the runs."""
    positions, recorded = dict(decision.confirm), list(runs)
    for number, run in enumerate(runs):
        patch = item_read(run, positions.get(run.name), done=not unsure)
        if patch is not None:
            recorded[number] = await _patched(context, run, patch)
    return recorded


async def _patched(context: ForgeContext, task: AgentTask, patch: Mapping[str, Any]) -> AgentTask:
    """Apply a merge patch to the task and return the result.

    Raises:
        TaskChangedError: the task has changed since its item was read.
    """
    patched = await context.tasks.patch(task, patch)
    if patched is None:
        raise TaskChangedError(f"{task.name} has changed since its item was read")
    return patched


async def _finish(context: ForgeContext, task: AgentTask | None, *wanted: Condition) -> Requeue | None:
    """Set conditions of an ended task, and stop watching it, unless something was asked for meanwhile."""
    if task is not None and wanted:
        task = await context.tasks.set_conditions(task, wanted, context.clock())
    if task is None:
        return None
    # This version of the task may be newer than the one that was reconciled.
    rescan = stored_rescan(task)
    if next_command(task) is not None or (rescan is not None and rescan.labels):
        return Requeue(0.0)
    return await _stop_watching(context, task, RESCAN if rescan is not None else "true")


async def _stop_watching(context: ForgeContext, task: AgentTask, reported: str) -> Requeue | None:
    patch = {"metadata": {"labels": {LABEL_REPORTED: reported}}}
    return None if await context.tasks.patch(task, patch) else Requeue(0.0)


async def _correct(
    context: ForgeContext,
    runs: Sequence[AgentTask],
    decision: Decision,
    correction: Correction,
    item: ItemState,
) -> None:
    """Cancel runs or create one, as the item's history demands.

    Raises:
        TaskChangedError: a task has changed since the decision; the others may have been corrected.
    """
    by_name, task = {run.name: run for run in runs}, runs[-1]
    if decision.duplicate is not None:
        others = [run for run in runs if works(run) and run.name != decision.duplicate]
        duplicate = by_name[decision.duplicate]
        await _patched(context, duplicate, duplicate_of(others[-1].name))
    for name, position in decision.withdraw:
        why, cause = CANCELLATIONS[correction]
        await _patched(context, by_name[name], cancellation(why, cause, position))
    if decision.create is not None and correction is Correction.LABEL_APPLIED:
        request = await _with_trust(context, _next_request(context, task, decision.create, item))
        submission = await context.sink.submit_next(request, decision.position)
        if submission.duplicate is not None:
            raise TaskChangedError(f"{task.name} has a newer run: {submission.duplicate}")
    CORRECTIONS.labels(correction).inc()
    reason, message = CORRECTION_EVENTS[correction]
    _logger.info("%s: %s", task.spec.item.display, message)
    await context.tasks.emit(Event("Normal", reason, message), task, context.clock())


async def _with_trust(context: ForgeContext, request: TaskRequest) -> TaskRequest:
    """Return the request with the trust that its item deserves now.

    An earlier run of the item does not say it: its spec is older, and the receiver's account could write it.
    """
    trust = await context.forge.trust(request.item)
    return request.model_copy(update={"trusted": trust.trusted, "answers": trust.answers})


def _next_request(context: ForgeContext, task: AgentTask, applied: ItemEvent, item: ItemState) -> TaskRequest:
    """Return the request for the run that an application of the label asks for."""
    given_at_creation = applied.id == 0
    trigger = Trigger(
        origin=Origin.POLL,
        labeled_at=None if given_at_creation else applied.at,
        received_at=context.clock(),
    )
    return task.spec.request.model_copy(
        update={
            "user": applied.user or task.spec.user,
            "trigger": trigger,
            "runner": context.labels.runner(item.labels | {applied.label}),
        }
    )


async def record_problem(
    tasks: TaskStore, task: AgentTask, memory: TaskMemory, problem: Event, now: datetime
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
