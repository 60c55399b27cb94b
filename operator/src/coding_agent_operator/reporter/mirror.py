"""One look at one task: read what the decision needs, decide, do it: comment, labels, acknowledge, correct.

Every step can be repeated, and nothing depends on what was remembered: after kill -9 between any two requests
the next look ends the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from coding_agent_core.agenttask import LABEL_REPORTED, Condition
from coding_agent_core.errors import ForgeNotFoundError
from coding_agent_core.kubernetes.runs import latest_of, runs_of
from coding_agent_core.kubernetes.transport import Body
from coding_agent_core.reporting.publish import swap, write_comment
from coding_agent_core.reporting.render import MARKER, Report, State, comment, read_state

from coding_agent_operator.observed import Task, read_task
from coding_agent_operator.reporter import commands, metrics, trouble
from coding_agent_operator.reporter.backlog import Rank
from coding_agent_operator.reporter.cancelled import cancelled_because
from coding_agent_operator.reporter.conditions import acknowledged, reported
from coding_agent_operator.reporter.correct import correct
from coding_agent_operator.reporter.decide import Item, Plan, Standing, asks_for_time, decide
from coding_agent_operator.reporter.errors import ChangedError, NotConfiguredError
from coding_agent_operator.reporter.memory import NEVER, Memory
from coding_agent_operator.reporter.place import Place
from coding_agent_operator.reporter.report_of import report_of, standing_of

_logger = logging.getLogger("reporter.mirror")


_REPORTED = {"metadata": {"labels": {LABEL_REPORTED: "true"}}}
"""The merge patch after which the reporter no longer watches a task."""


@dataclass(frozen=True)
class Again:
    """When to look at a task again although nothing happens to it, in seconds."""

    delay: float
    rank: Rank = Rank.CHECK


async def look(place: Place, seen: Task, memory: Memory, rank: Rank) -> Again | None:
    """Show a task on its item as it stands now; `None`: it needs no more looks.

    Args:
        seen: as the watch has shown it; it is read again where anything is to be done.

    Raises:
        ForgeError: the forge did not take all of it.
        ApiError, QueueUnavailableError: the API server did not.
        ChangedError: the task changed meanwhile.
        NotConfiguredError: its forge is not the configured one.
    """
    if place.forge.platform is not seen.spec.source.platform:
        raise NotConfiguredError(
            f"{seen.spec.source.host} is configured as {place.forge.platform}, not as "
            f"{seen.spec.source.platform}."
        )
    # A task on which a trouble is told is looked at: it may be over.
    wanted = commands.is_pending(seen.labels) or trouble.is_told(seen)
    if not wanted and (idle := _idle(place, seen, memory, rank)) is not None:
        return idle
    memory.due = NEVER
    runs = runs_of(seen.spec.item, await place.tasks.runs(seen.item))
    # Somebody may have taken its labels away: then it is not in the list.
    found = next((each for each in runs if each["metadata"]["uid"] == seen.uid), None)
    body = dict(found) if found is not None else await place.tasks.get(seen.name)
    if body is None or body["metadata"]["uid"] != seen.uid:
        return None
    if await commands.execute_next(body, place.forge, place.sink, place.tasks):
        raise ChangedError(f"{seen.name} was changed by a command")
    task, memory.cancelled = read_task(body), cancelled_because(body)
    earlier = [other for each in reversed(runs) if (other := read_task(each)).spec.run < task.spec.run]
    if runs and read_task(runs[-1]).spec.run > task.spec.run:
        return await _superseded(place, task, body)
    try:
        return await _newest(place, task, body, earlier, memory)
    except ForgeNotFoundError as error:
        return await _gone(place, task, body, memory, error)


def _idle(place: Place, task: Task, memory: Memory, rank: Rank) -> Again | None:
    """When to look again, if there is nothing to do now as far as the watch has shown."""
    now = place.monotonic()
    left = memory.due - now
    if memory.comment is None or left <= 0:
        return None
    report = report_of(task, place.labels, memory.before or (), memory.cancelled)
    if comment(report) == memory.comment.body:
        return Again(left)
    still = memory.written + place.settings.position_interval - now
    if _unmoved(report) == memory.unmoved and still > 0:
        return Again(min(left, still), Rank.POSITION)
    return None


async def _superseded(place: Place, task: Task, body: Body) -> Again | None:
    """The item shows a newer run: an older one writes nothing on it, whenever it ends."""
    if not task.ended:
        return Again(place.check_interval())
    newest = await place.tasks.set_conditions(
        body, (acknowledged("A newer run of the item is shown."),), place.clock()
    )
    return await _mark(place, newest)


async def _newest(place: Place, task: Task, body: Body, earlier: list[Task], memory: Memory) -> Again | None:
    known = latest_of([body])
    assert known is not None  # noqa: S101 - its spec was read
    standing = standing_of(task, known, memory.ended)
    now = place.clock()
    plan = await _plan(place, task, standing, memory, now)
    await _comment(place, task, earlier, memory)
    await swap(place.forge, task.spec.item, plan.add, plan.remove)
    if plan.add or plan.remove:
        metrics.SHOWN.labels(standing.phase).inc()
        _logger.info("%s: labels %s on, %s off", task.spec.item.display, plan.add, plan.remove)
    memory.doubt = plan.doubt
    if plan.correct is not None:
        await correct(place, task, body, known, plan.correct)
        memory.doubt = None
        return Again(0.5, Rank.CHANGE)
    if standing.phase.terminal and memory.ended is None and plan.doubt is None:
        memory.ended = now
    wanted: list[Condition] = [acknowledged("The item shows our labels.")] if plan.acknowledge else []
    if trouble.is_told(task):
        wanted.append(reported("The item shows the task as it is."))
    newest = await place.tasks.set_conditions(body, tuple(wanted), now)
    memory.told = ""
    if plan.settled:
        return await _mark(place, newest)
    again = _again(place, standing, memory, now)
    memory.due = place.monotonic() + again.delay
    return again


async def _plan(place: Place, task: Task, standing: Standing, memory: Memory, now: datetime) -> Plan:
    glance = await place.forge.glance(task.spec.item)
    item = Item(labels=glance.labels, open=glance.open)
    applied = None
    if asks_for_time(standing, item, place.labels):
        applied = await place.forge.applied(task.spec.item, place.labels.bot_label)
    return decide(
        standing,
        item,
        place.labels,
        applied=applied.at if applied else None,
        doubt=memory.doubt,
        now=now,
        grace=timedelta(seconds=place.settings.grace),
    )


async def _comment(place: Place, task: Task, earlier: list[Task], memory: Memory) -> None:
    """Bring the one comment up to date; nothing is asked of the forge where it says so already."""
    item = task.spec.item
    if memory.before is None:
        memory.comment = await place.forge.find_comment(item, MARKER)
        memory.before = _before(place, earlier, memory.comment.body if memory.comment else "")
    report = report_of(task, place.labels, memory.before, memory.cancelled)
    text = comment(report)
    if memory.comment is None or memory.comment.body != text:
        written = await write_comment(place.forge, item, report, known=memory.comment)
        # As it was written: forges change line ends.
        memory.comment = replace(written, body=text)
        memory.written = place.monotonic()
    memory.unmoved = _unmoved(report)


def _before(place: Place, earlier: list[Task], body: str) -> tuple[State, ...]:
    """What earlier runs left, newest first: as their tasks tell, else as the comment remembers."""
    left = [report_of(each, place.labels).state for each in earlier]
    remembered = read_state(body)
    return (*left, remembered) if remembered is not None else tuple(left)


def _unmoved(report: Report) -> str:
    return comment(replace(report, position=None))


def _again(place: Place, standing: Standing, memory: Memory, now: datetime) -> Again:
    since = memory.doubt.since if memory.doubt is not None else memory.ended
    if since is None or not (standing.phase.terminal or memory.doubt):
        return Again(place.check_interval())
    passed = (now - since).total_seconds()
    return Again(max(0.05, place.settings.grace - passed))


async def _gone(
    place: Place, task: Task, body: Body, memory: Memory, error: ForgeNotFoundError
) -> Again | None:
    """The item is gone, or we may not see it: nothing of it can be shown any more."""
    if task.ended:
        newest = await place.tasks.set_conditions(
            body, (acknowledged("The item is gone, or cannot be seen."),), place.clock()
        )
        return await _mark(place, newest)
    missing = trouble.Trouble("ItemNotFound", str(error))
    await trouble.tell(place.tasks, task, memory, missing, place.clock())
    return Again(place.check_interval())


async def _mark(place: Place, body: Body | None) -> Again | None:
    """The end is shown: no longer watch the task."""
    if body is None or await place.tasks.patch(body, _REPORTED):
        return None
    return Again(0.0)
