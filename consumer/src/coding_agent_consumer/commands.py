"""Carries out commands in comments where there is no reporter: beside the workers of a consumer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from coding_agent_core.carry_out import CommandMetrics, Place, carry_out
from coding_agent_core.commands import IssueCommand, Standing
from coding_agent_core.errors import ForgeUnavailableError, QueueUnavailableError
from coding_agent_core.forge.connect import connect_all
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.queues.protocol import CommandSource, Submission
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import Labels
from coding_agent_core.tasks import TaskRequest, Withdrawal, task_name

from coding_agent_consumer.tasks import remembered

_logger = logging.getLogger("coding_agent.commands")

PlaceOf = Callable[[IssueCommand, Forge], Place]


async def obey(
    source: CommandSource,
    forges: Mapping[str, Forge],
    place_of: PlaceOf,
    stop: asyncio.Event,
    metrics: CommandMetrics | None = None,
) -> None:
    """Carry out commands as they come, until `stop` is set."""
    async for lease in source.commands(stop):
        command = lease.command
        forge = forges.get(command.item.host)
        if forge is None:
            _logger.warning("/%s: no forge is configured for %s", command.name, command.item.host)
            await lease.done()
            continue
        try:
            await carry_out(command, forge, place_of(command, forge), metrics)
        except (ForgeUnavailableError, QueueUnavailableError) as error:
            _logger.warning("/%s on %s has to wait: %s", command.name, command.item.display, error)
            await lease.later()
            continue
        except Exception:
            # A defect of ours at one command must not end the others.
            _logger.exception("Unexpected error at /%s on %s", command.name, command.item.display)
        await lease.done()


def in_memory(queue: MemoryQueue) -> PlaceOf:
    """The in-memory queue knows its tasks; how one ended, our comment remembers."""

    def place_of(command: IssueCommand, forge: Forge) -> Place:
        async def look() -> Standing:
            state = await remembered(forge, command.item)
            return Standing(
                open=True, latest=queue.latest(command.item), phase=state.phase if state else None
            )

        return Place(queue, look)

    return place_of


def by_labels(settings: Settings) -> PlaceOf:
    """RabbitMQ has no memory of items: there the labels are what commands act on."""

    def place_of(command: IssueCommand, forge: Forge) -> Place:
        async def look() -> Standing:
            state = await remembered(forge, command.item)
            return Standing(open=True, latest=None, phase=state.phase if state else None)

        return Place(_Labels(forge, settings.labels(command.item.platform)), look)

    return place_of


class _Labels:
    """`Runs` by labels: putting the bot label on asks for a run, taking the flow's off cancels it.

    The forge tells the receiver (or the poll) of the label as of any other, and the consumer, which looks at
    the labels before and while it works, of its removal, whichever process has the task in hand.
    """

    def __init__(self, forge: Forge, labels: Labels) -> None:
        self._forge = forge
        self._bot, self._processing = labels.bot_label, labels.processing_label

    async def submit(self, request: TaskRequest) -> Submission:
        """Put the bot label on, unless a task waits or runs."""
        name = task_name(request.item)
        details = await self._forge.read(request.item)
        if {self._bot, self._processing} & details.labels:
            return Submission(name, duplicate="the item's task has not ended")
        await self._forge.add_label(request.item, self._bot)
        return Submission(name)

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Take the labels off that keep a task going."""
        removed = [
            await self._forge.remove_label(withdrawal.item, label) for label in (self._bot, self._processing)
        ]
        return task_name(withdrawal.item) if any(removed) else None


async def obey_in_memory(
    settings: Settings, queue: MemoryQueue, stop: asyncio.Event, metrics: CommandMetrics | None = None
) -> None:
    """For the process that holds the in-memory queue."""
    await _obey(settings, queue, in_memory(queue), stop, metrics)


async def obey_rabbitmq(settings: Settings, stop: asyncio.Event) -> None:
    """For a consumer of RabbitMQ."""
    from coding_agent_core.queues.rabbitmq.commands import RabbitMQCommands  # noqa: PLC0415 - an extra

    _logger.warning(
        "With RabbitMQ /run and /retry put the label on, in the name of our own account: its per-user "
        "settings apply to the run, not those of who gave the command (docs/decisions/0015)"
    )
    await _obey(settings, RabbitMQCommands(settings.rabbitmq), by_labels(settings), stop, None)


async def _obey(
    settings: Settings,
    source: CommandSource,
    place_of: PlaceOf,
    stop: asyncio.Event,
    metrics: CommandMetrics | None,
) -> None:
    async with AsyncExitStack() as stack:
        forges = connect_all(settings)
        for forge in forges.values():
            stack.push_async_callback(forge.aclose)
        await obey(source, forges, place_of, stop, metrics)
