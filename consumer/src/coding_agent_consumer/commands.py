"""Executes commands in comments beside the workers of a consumer, where there is no reporter."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from coding_agent_core.commands import CommandMetrics, IssueCommand, Target, execute
from coding_agent_core.errors import ForgeUnavailableError, QueueUnavailableError
from coding_agent_core.forge.connect import connect_all
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.outcome import Phase
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.queues.protocol import CommandSource
from coding_agent_core.retry import first_of
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import Item, Submission, TaskRequest, Withdrawal, task_name

from coding_agent_consumer.tasks import remembered

_logger = logging.getLogger("coding_agent.commands")

RETRY_SECONDS = 10.0


async def execute_commands(
    settings: Settings,
    source: CommandSource,
    stop: asyncio.Event,
    metrics: CommandMetrics | None = None,
) -> None:
    """Execute commands as they come, until `stop` is set.

    The in-memory queue knows its tasks. RabbitMQ does not: there commands act on the item's labels.
    """
    async with AsyncExitStack() as stack:
        forges = connect_all(settings)
        for connected in forges.values():
            stack.push_async_callback(connected.aclose)
        if not isinstance(source, MemoryQueue):
            _logger.warning(
                "With RabbitMQ /run and /retry apply the label from our own account: its per-user settings "
                "apply to the run, not those of the command's author (docs/decisions/0015)"
            )
        async for command in source.commands(stop):
            forge = forges.get(command.item.host)
            if forge is None:
                _logger.warning("/%s: no forge is configured for %s", command.name, command.item.host)
                continue
            labels = LabelRequests(forge, settings.labels(command.item.platform))
            target = Target(
                forge=forge,
                tasks=source if isinstance(source, MemoryQueue) else labels,
                phase=partial(_phase, forge, command.item, source),
            )
            await _until_executed(command, target, metrics, stop)


async def _phase(forge: Forge, item: Item, source: CommandSource) -> Phase | None:
    latest = source.latest(item) if isinstance(source, MemoryQueue) else None
    if latest is not None and latest.cancel_requested:
        return Phase.CANCELLED
    state = await remembered(forge, item)
    return state.phase if state else None


async def _until_executed(
    command: IssueCommand, target: Target, metrics: CommandMetrics | None, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        try:
            await execute(command, target, metrics)
        except (ForgeUnavailableError, QueueUnavailableError) as error:
            _logger.warning("/%s on %s waits: %s", command.name, command.item.display, error)
            await first_of(asyncio.sleep(RETRY_SECONDS), stop.wait())
            continue
        except Exception:  # a defect of ours at one command must not end the others
            _logger.exception("Unexpected error at /%s on %s", command.name, command.item.display)
        return


@dataclass(frozen=True)
class LabelRequests:
    """Requests a run by applying the bot label, and cancels it by removing the labels of the flow.

    The forge reports this to the receiver like any other label event, and the consumer that works on the task
    checks the labels before and while it works.
    """

    forge: Forge
    labels: Labels

    async def submit(self, request: TaskRequest) -> Submission:
        name = task_name(request.item)
        details = await self.forge.read(request.item)
        if {self.labels.bot_label, self.labels.processing_label} & details.labels:
            return Submission(name, duplicate="the item's task has not ended")
        await self.forge.add_label(request.item, self.labels.bot_label)
        return Submission(name)

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        removed = [
            await self.forge.remove_label(withdrawal.item, label)
            for label in (self.labels.bot_label, self.labels.processing_label)
        ]
        return task_name(withdrawal.item) if any(removed) else None
