"""Publishes tasks to RabbitMQ: returned means confirmed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pika

from coding_agent_core.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.messages import QueuedTask
from coding_agent_core.queues.protocol import Submission
from coding_agent_core.queues.rabbitmq.amqp import BrokerError, ConfirmingChannel, Connection
from coding_agent_core.queues.rabbitmq.io_thread import IoThread
from coding_agent_core.queues.rabbitmq.messages import command_queue, encode
from coding_agent_core.queues.rabbitmq.properties import command_properties, task_properties
from coding_agent_core.queues.rabbitmq.topology import declare_durable, declare_queues
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.queues import RabbitMQ
from coding_agent_core.tasks import TaskRequest, Withdrawal, new_uuid

_logger = logging.getLogger("coding_agent.queue")
_PROBE_SECONDS = 1.8
_PAUSE_SECONDS = 0.2
"""Between two attempts to connect while a task waits to be published."""


@dataclass(frozen=True)
class _Message:
    queue: str
    body: bytes
    properties: pika.BasicProperties
    what: str


class RabbitMQSink:
    """See `TaskSink`. Connects with the first task; one connection carries all, many at a time.

    Args:
        commands: their queue is wanted too.
    """

    def __init__(self, settings: RabbitMQ, *, commands: bool = False) -> None:
        self._settings = settings
        self._commands = commands
        self._secrets = Secrets(settings.password)
        self._io = IoThread("rabbitmq-publisher")
        self._connection: Connection | None = None
        self._channel: ConfirmingChannel | None = None
        self._connecting: asyncio.Lock | None = None
        self._closed = False

    async def submit(self, request: TaskRequest) -> Submission:
        """Publish a task and wait for the broker's confirmation; see `TaskSink`.

        RabbitMQ has no memory of items: duplicates are found by the consumer, on the forge.
        """
        if self._closed:
            raise BrokerError("The queue was closed; this program is ending.")
        task = QueuedTask(request=request, uuid=new_uuid())
        message = _Message(self._settings.queue, encode(task), task_properties(task), f"task {task.name}")
        await self._io.run(self._publish(message))
        return Submission(task=task.name)

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Nothing: a broker cannot take a message back. The consumer looks at the item's labels itself."""
        _logger.info(
            "%s: %s; left to the consumer, which looks at the labels before and while it works",
            withdrawal.item.display,
            withdrawal.reason,
        )
        return None

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        """Publish a command to a queue of its own; see `TaskSink`. The consumer knows the item."""
        if self._closed:
            raise BrokerError("The queue was closed; this program is ending.")
        queue = command_queue(self._settings.queue)
        body = command.model_dump_json().encode()
        what = f"/{command.name} on {command.item.display}"
        await self._io.run(self._publish(_Message(queue, body, command_properties(command), what)))
        return CommandStored(queue)

    async def connected(self) -> bool:
        """Ask the broker for the queue; see `TaskSink`."""
        if self._closed:
            return False
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return await self._io.run(self._probe())
        except Exception as error:
            _logger.debug("RabbitMQ is not reachable: %s", error)
            return False

    async def aclose(self) -> None:
        """Close the connection and end the thread."""
        if self._closed:
            return
        self._closed = True
        if self._connection is not None:
            await self._io.run(self._connection.close())
        await self._io.stop()

    async def _publish(self, message: _Message) -> None:
        """Publish within the time that the settings allow.

        A connection that idled may be dead without a sign of it: the first try on one gets half of the time,
        so that enough is left for a second try on a new one. That can leave the message in the queue twice,
        which the consumer makes harmless (a task's claim, a command's reaction); it never loses one.
        """
        loop = asyncio.get_running_loop()
        budget = self._settings.publish_timeout
        deadline = loop.time() + budget
        problem: Exception = BrokerError(f"RabbitMQ did not confirm it within {budget:g} s")
        tries = 0
        while tries < 2 and loop.time() < deadline:
            fresh = not self._alive()
            try:
                async with asyncio.timeout_at(deadline):
                    channel = await self._open_channel()
            except TimeoutError:
                break
            except BrokerError as error:
                problem = error
                await asyncio.sleep(min(_PAUSE_SECONDS, max(0.0, deadline - loop.time())))
                continue
            tries += 1
            now = loop.time()
            limit = deadline if fresh or tries > 1 else now + (deadline - now) / 2
            try:
                async with asyncio.timeout_at(limit):
                    await channel.publish(message.queue, message.body, message.properties)
            except TimeoutError:
                _logger.warning("RabbitMQ did not confirm %s in time", message.what)
            except BrokerError as error:
                problem = error
            else:
                return
            # A confirmation that comes later can belong to nothing any more.
            self._drop(channel)
        raise BrokerError(f"Not queued: {message.what}: {problem}")

    async def _probe(self) -> bool:
        for _ in range(2):
            fresh = not self._alive()
            channel = await self._open_channel()
            assert self._connection is not None  # noqa: S101 - opened above
            if self._connection.blocked:
                return False
            try:
                async with asyncio.timeout(_PROBE_SECONDS / 2):
                    await channel.call(channel.raw.queue_declare, queue=self._settings.queue, passive=True)
            except (BrokerError, TimeoutError):
                self._drop(channel)
                if fresh:
                    return False
            else:
                return True
        return False

    def _alive(self) -> bool:
        return (
            self._connection is not None
            and self._connection.is_open
            and self._channel is not None
            and self._channel.is_open
        )

    async def _open_channel(self) -> ConfirmingChannel:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if not self._alive():
                if self._connection is not None:
                    self._connection.drop()
                timeout = self._settings.publish_timeout
                connection = await Connection.open(self._settings, self._secrets, timeout)
                try:
                    await declare_queues(connection, self._settings.queue)
                    if self._commands:
                        await declare_durable(connection, command_queue(self._settings.queue))
                    self._channel = await connection.confirming_channel()
                except BaseException:
                    connection.drop()
                    raise
                self._connection = connection
            assert self._channel is not None  # noqa: S101 - set above or alive
            return self._channel

    def _drop(self, channel: ConfirmingChannel) -> None:
        if channel is self._channel and self._connection is not None:
            self._connection.drop()
            self._channel = None
