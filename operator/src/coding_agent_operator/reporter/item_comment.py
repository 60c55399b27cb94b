"""An item's one comment in a reconcile: what it remembers, what it has to say, and when it is written."""

from __future__ import annotations

import logging
from dataclasses import replace

from coding_agent_core.errors import ForgeError, ForgeUnavailableError, NotYetError
from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting.comment import Report, State, comment, read_state, without_change_rounds
from coding_agent_core.rounds.notes import as_written
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_record import RoundRecord, with_reruns

from coding_agent_operator.cluster.controller import Requeue
from coding_agent_operator.reporter.commit_statuses import commit_statuses
from coding_agent_operator.reporter.forge_context import ForgeContext
from coding_agent_operator.reporter.report import TaskMemory, link_problems, report_of, with_round

_logger = logging.getLogger("reporter.reconcile")


def requeue_if_current(context: ForgeContext, task: AgentTask, memory: TaskMemory) -> Requeue | None:
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


async def update_comment(
    context: ForgeContext, task: AgentTask, earlier: list[AgentTask], memory: TaskMemory, *, is_open: bool
) -> None:
    """Update the item's one comment; send no request if it is up to date.

    Args:
        is_open: whether the item is open. Later rounds of its change are not shown on a closed item.
    """
    item = task.spec.item
    await remembered_state(context, task, memory)
    # An earlier run can end while this one waits for it.
    states = [report_of(run, context.labels, context.links).state for run in earlier]
    memory.earlier = (*states, *(memory.remembered or ()))
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


async def remembered_state(context: ForgeContext, task: AgentTask, memory: TaskMemory) -> State:
    """Return what the item's comment remembers of earlier runs; an empty state if there is no comment.

    After a start, the comment is searched before any write: an earlier process may have died between the
    forge's write and its answer, and a second comment would follow.
    """
    if memory.remembered is None:
        memory.comment = await context.forge.find_comment(task.spec.item, MARKER)
        remembered = read_state(memory.comment.body) if memory.comment else None
        memory.remembered = () if remembered is None else (remembered,)
        memory.rounds = (remembered and remembered.rounds) or RoundRecord()
    return memory.remembered[0] if memory.remembered else State(uuid="", phase=Phase.QUEUED)


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
        answered=memory.answered,
    )
    # After a withdrawal nothing is added; see `comment_with_change_rounds`.
    change = report.state.change_url if report.state.phase is Phase.SUCCEEDED else None
    return replace(report, rounds=context.change_rounds(task.item_hash, change)) if change else report


def _without_position(report: Report) -> str:
    return comment(replace(report, position=None))
