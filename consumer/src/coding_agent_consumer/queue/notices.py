"""Handles notices while a consumer's workers run, in installations without a reporter.

An item then shows that its task waits, or that the task was cancelled before it started. Commands in comments
are executed. An event about a change of ours causes a scan of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from coding_agent_core.errors import ForgeError, ForgeUnavailableError, QueueUnavailableError
from coding_agent_core.queues.interfaces import LookRequest, Notice, NoticeSource, TaskSink, item_of_notice
from coding_agent_core.reporting.command_execution import CommandMetrics, LastTask, Target, execute
from coding_agent_core.reporting.comment import State
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS
from coding_agent_core.runtime.retry import first_of
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.admission import Cancel, Keep, answered_by_withdrawal
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.commands import IssueCommand
from coding_agent_core.task.model import (
    Item,
    Phase,
    Submission,
    TaskRequest,
    Withdrawal,
    WithdrawalCause,
    task_name,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import Reason
from coding_agent_forges.connect import connect_all
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.item.forge_tasks import (
    ForgeTask,
    Start,
    decide_start,
    remembered,
    state_of,
)
from coding_agent_consumer.rounds.scan import ConsumerScans

_logger = logging.getLogger("coding_agent.notices")

RETRY_SECONDS = 10.0
_WAITS_AFTER = 1.0
"""Seconds after which a task that no worker has claimed is shown as waiting."""
SIGN_SECONDS = 120.0
"""A task is shown as waiting only within this many seconds of its event.

After an outage of the forge, the requests to show all tasks that waited meanwhile would delay commands and
workers. When a task starts, its item shows more.
"""


async def handle_notices(
    settings: Settings,
    source: NoticeSource,
    stop: asyncio.Event,
    metrics: CommandMetrics | None = None,
    *,
    sink: TaskSink | None = None,
) -> None:
    """Handle notices as they come, until `stop` is set. A forge that is down does not delay other forges.

    Args:
        sink: takes the rounds of our open changes; `None`: there are none.
    """
    async with AsyncExitStack() as stack:
        forges = connect_all(settings)
        for connected in forges.values():
            stack.push_async_callback(connected.aclose)
        if settings.webhook.commands.enabled:
            _logger.warning(
                "With RabbitMQ /run and /retry apply the label from our own account: its per-user settings "
                "apply to the run, not those of the command's author (docs/decisions/0015)"
            )
        looks = round_looks(settings, source, forges, sink)
        handler = NoticeHandler(settings, source, forges, metrics, looks)
        async with asyncio.TaskGroup() as group:
            for one in looks.values():
                group.create_task(one.run(stop))
            # Forges without a token are included: their notices are dropped with a warning, as tasks are.
            for host in sorted({*settings.hosts.values(), *forges}):
                group.create_task(_handle_notices_of(host, handler, source, stop))


def round_looks(
    settings: Settings, source: NoticeSource, forges: Mapping[str, Forge], sink: TaskSink | None
) -> dict[str, ConsumerScans]:
    """Return the scanners of our open changes, by host; empty if rounds are disabled."""
    if sink is None or not settings.rounds.enabled:
        return {}
    return {host: ConsumerScans(settings, forge, source, sink) for host, forge in forges.items()}


async def _handle_notices_of(
    host: str, handler: NoticeHandler, source: NoticeSource, stop: asyncio.Event
) -> None:
    async with aclosing(source.notices(host, stop)) as notices:
        async for notice in notices:
            if not await _until_handled(handler, notice, stop):
                break  # asking for the next notice would acknowledge this one


async def _until_handled(handler: NoticeHandler, notice: Notice, stop: asyncio.Event) -> bool:
    """Handle a notice, and retry while the forge or queue is down. Return `False` if `stop` came first."""
    item = item_of_notice(notice)
    while not stop.is_set():
        if _is_outdated(notice, datetime.now(UTC)):
            _logger.info("Not shown that the task of %s waits: it came long ago", item.display)
            return True
        try:
            await handler.handle(notice)
        except (ForgeUnavailableError, QueueUnavailableError) as error:
            _logger.warning("A notice about %s is waiting: %s", item.display, error)
            await first_of(asyncio.sleep(RETRY_SECONDS), stop.wait())
            continue
        except ForgeError as error:
            _logger.warning("Could not handle a notice about %s: %s", item.display, error)
        except Exception:  # a bug with one notice must not stop the others
            BACKGROUND_ERRORS.labels("notices").inc()
            _logger.exception("Unexpected error while handling a notice about %s", item.display)
        return True
    return False


def _is_outdated(notice: Notice, now: datetime) -> bool:
    if not isinstance(notice, QueuedTask):
        return False
    return (now - notice.request.trigger.received_at).total_seconds() > SIGN_SECONDS


@dataclass(frozen=True)
class NoticeHandler:
    """Handles notices. A notice may be handled twice.

    A broker does not know tasks, so an item's labels and our comment show their state.

    Attributes:
        forges: the forges by host.
        looks: the scanners of our open changes, by host.
    """

    settings: Settings
    source: NoticeSource
    forges: Mapping[str, Forge]
    metrics: CommandMetrics | None = None
    looks: Mapping[str, ConsumerScans] = field(default_factory=dict)

    async def handle(self, notice: Notice) -> None:
        """Handle a notice. This raises ForgeError or QueueUnavailableError."""
        item = item_of_notice(notice)
        forge = self.forges.get(item.host)
        if forge is None:
            _logger.warning("Dropped a notice: no forge is configured for %s", item.host)
            return
        match notice:
            case QueuedTask():
                await self._show_waiting(notice, forge)
            case Withdrawal():
                await self._show_cancelled(notice, forge)
            case IssueCommand():
                await self._execute(notice, forge)
            case LookRequest() if item.host in self.looks:
                self.looks[item.host].ask(notice)

    async def _show_waiting(self, task: QueuedTask, forge: Forge) -> None:
        """Show that a task waits, unless a worker has or had the item's lock: the worker shows more.

        The comment of a task that has not ended stays, because only it has the numbers of the attempts.
        """
        age = (datetime.now(UTC) - task.request.trigger.received_at).total_seconds()
        await asyncio.sleep(min(_WAITS_AFTER, max(0.0, _WAITS_AFTER - age)))
        async with self.source.item_lock(task.request.item) as is_free:
            if not is_free:
                return
            item = await forge.locate(task.request.item)
            waiting = await self._waiting(task, item, await remembered(forge, item), forge)
            if waiting is not None:
                await self._task(forge, item, waiting).comment(Phase.QUEUED)

    async def _waiting(self, task: QueuedTask, item: Item, shown: State | None, forge: Forge) -> State | None:
        """Return the state of a waiting task; `None` if nobody wants it, or its item shows a later state."""
        if shown is not None and (shown.uuid == task.uuid or not shown.phase.terminal):
            return None
        limit = self.settings.consumer.max_attempts
        labels = self.settings.labels(item.platform)
        hands_off = self.settings.rounds.hands_off_label
        details = await forge.read(item)
        decision = decide_start(task, details, shown, labels, limit, hands_off_label=hands_off)
        if not isinstance(decision, Start):
            return None
        return state_of(task, decision, shown.branch if shown else None, begins=False)

    async def _show_cancelled(self, withdrawal: Withdrawal, forge: Forge) -> None:
        """Show that a waiting task was cancelled. The worker of a running task shows this itself."""
        async with self.source.item_lock(withdrawal.item) as is_free:
            if not is_free or await self._is_wanted(withdrawal.item, forge):
                return
            item = await forge.locate(withdrawal.item)
            state = await remembered(forge, item)
            unlabeled = withdrawal.cause is WithdrawalCause.UNLABELED
            if unlabeled and state is not None and state.round is not None and state.attempt == 0:
                return  # a round has no label until its first attempt
            if state is not None and state.phase in (Phase.QUEUED, Phase.BACKOFF):
                outcome = Outcome(reason=Reason.CANCELLED, message=withdrawal.message)
                shown = self._task(forge, item, state)
                shown.withdrawn = withdrawal.cause
                if state.round is None:
                    shown.answered_until = answered_by_withdrawal(withdrawal.before)
                await shown.finish(outcome)

    async def _is_wanted(self, item: Item, forge: Forge) -> bool:
        """Whether the item asks for a task: its label may have been applied again."""
        labels = self.settings.labels(item.platform)
        seen = await forge.read_state(item)
        return seen.open and bool(labels.active & seen.labels)

    def _task(self, forge: Forge, item: Item, state: State) -> ForgeTask:
        limit = self.settings.consumer.max_attempts
        labels = self.settings.labels(item.platform)
        return ForgeTask(forge, item, labels, state, max_attempts=limit)

    async def _execute(self, command: IssueCommand, forge: Forge) -> None:
        labels = self.settings.labels(command.item.platform)
        target = Target(
            forge=forge,
            tasks=LabelRequests(forge, labels, self._cancel_round),
            last=partial(_last, forge, command.item),
            accepted=self.settings.webhook.commands.accepted,
        )
        await execute(command, target, self.metrics)

    async def _cancel_round(self, withdrawal: Withdrawal, forge: Forge) -> bool:
        """End a round that waits for its first attempt, and has no label yet; whether there was one."""
        async with self.source.item_lock(withdrawal.item) as is_free:
            item = await forge.locate(withdrawal.item)
            state = await remembered(forge, item) if is_free else None
            if state is None or state.round is None or not state.waits_for_first_attempt:
                return False
            outcome = Outcome(reason=Reason.CANCELLED, message=withdrawal.message)
            await self._task(forge, item, state).finish(outcome)
            return True


async def _last(forge: Forge, item: Item) -> LastTask:
    state = await remembered(forge, item)
    return LastTask(state.phase if state else None, state.runner if state else None)


@dataclass(frozen=True)
class LabelRequests:
    """Requests a run by applying the bot label, and cancels a run by removing its item's task labels.

    The forge reports this to the receiver like any other label event, and the consumer that works on the task
    checks the labels before and during its work.

    Attributes:
        cancel_round: ends a round that has no label yet; returns whether there was one.
    """

    forge: Forge
    labels: Labels
    cancel_round: Callable[[Withdrawal, Forge], Awaitable[bool]]

    async def submit(self, request: TaskRequest) -> Submission:
        name = task_name(request.item)
        details = await self.forge.read(request.item)
        if self.labels.active & details.labels:
            return Submission(name, duplicate="the item's task has not ended")
        await self.forge.add_label(request.item, self.labels.trigger(request.runner))
        return Submission(name)

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel | Keep:
        seen = await self.forge.read_state(withdrawal.item)
        removed = [
            await self.forge.remove_label(withdrawal.item, label)
            for label in sorted(self.labels.active & seen.labels)
        ]
        if not any(removed) and not await self.cancel_round(withdrawal, self.forge):
            return Keep("the item has none of the labels of a task")
        return Cancel(task_name(withdrawal.item))
