"""Publishes tasks and commands to RabbitMQ. What `submit` returned for is confirmed by the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import pika
from pika import exceptions

from coding_agent_core.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.messages import QueuedTask
from coding_agent_core.queues.rabbitmq.connection import (
    BrokerError,
    Channel,
    ChannelRefusedError,
    Connection,
    IoThread,
    text,
)
from coding_agent_core.queues.rabbitmq.messages import (
    WAITING_ARGUMENTS,
    Message,
    dead_queue,
    notice_message,
    notice_queue,
    task_message,
    waiting_queue,
)
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.tasks import Origin, Submission, TaskRequest, Withdrawal, new_uuid, task_name

_logger = logging.getLogger("coding_agent.queue")
_PROBE_SECONDS = 1.8
_RECONNECT_SECONDS = 0.2
_PERSISTENT = 2
_T = TypeVar("_T")


class ConfirmingChannel(Channel):
    """A channel on which the broker confirms each message. Several may be on their way at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._sent = 0
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._returnable: dict[str, int] = {}

    @classmethod
    async def open(cls, connection: Connection) -> Self:
        channel = await super().open(connection)
        await channel.call(channel.raw.confirm_delivery, ack_nack_callback=channel._on_confirm)
        channel.raw.add_on_return_callback(channel._on_return)
        return channel

    async def publish(self, message: Message) -> None:
        """Send a message and wait until the broker has it safely (on disk, for a durable queue).

        Raises:
            BrokerError: not confirmed; the message may be in the queue all the same.
        """
        self._sent += 1
        number = self._sent
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[number] = confirmed
        self._returnable[message.id] = number
        properties = pika.BasicProperties(
            delivery_mode=_PERSISTENT,
            content_type="application/json",
            message_id=message.id,
            headers=dict(message.headers) if message.headers else None,
        )
        try:
            self.raw.basic_publish("", message.queue, message.body, properties, mandatory=True)
            await self.wait(confirmed)
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ's channel is closed: {text(error)}") from error
        finally:
            self._unconfirmed.pop(number, None)
            self._returnable.pop(message.id, None)

    def _on_confirm(self, frame: Any) -> None:
        tag: int = frame.method.delivery_tag
        numbers = [n for n in self._unconfirmed if n <= tag] if frame.method.multiple else [tag]
        for number in numbers:
            confirmed = self._unconfirmed.get(number)
            if confirmed is None or confirmed.done():
                continue
            if isinstance(frame.method, pika.spec.Basic.Ack):
                confirmed.set_result(None)
            else:
                confirmed.set_exception(BrokerError("RabbitMQ refused the message; is the queue full?"))

    def _on_return(self, _raw: object, method: Any, properties: Any, _body: bytes) -> None:
        """Callback for messages that no queue took; it comes before the message's confirmation."""
        confirmed = self._unconfirmed.get(self._returnable.get(str(properties.message_id), 0))
        if confirmed is not None and not confirmed.done():
            confirmed.set_exception(BrokerError(f"RabbitMQ has no queue {method.routing_key!r} any more"))


class RabbitMQSink:
    """See `TaskSink`. Connects with the first task; one connection carries all, many at a time."""

    def __init__(self, settings: RabbitMQ) -> None:
        self._settings = settings
        self._queues = [settings.queue, dead_queue(settings.queue), notice_queue(settings.queue)]
        self._secrets = Secrets(settings.password)
        self._io = IoThread("rabbitmq-publisher")
        self._connection: Connection | None = None
        self._channel: ConfirmingChannel | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def submit(self, request: TaskRequest) -> Submission:
        """Publish a task and wait for the broker's confirmation.

        A poll finds the same items again and again, so it does not publish one whose message waits. All other
        duplicates are found by the consumer, on the forge.
        """
        task = QueuedTask(request=request, uuid=new_uuid())
        waiting = waiting_queue(self._settings.queue, request.item)
        if request.trigger.origin is Origin.POLL and await self._run(self._exists(waiting)):
            return Submission(task.name, duplicate="its message waits in the queue already")
        await self._run(self._publish(task_message(self._settings.queue, task), f"task {task.name}"))
        await self._run(self._after_publishing(task, waiting))
        return Submission(task.name)

    async def withdraw(self, withdrawal: Withdrawal) -> str | None:
        """Pass it on: a broker cannot take a message back.

        The consumer checks the labels before and while it works.
        """
        message = notice_message(self._settings.queue, withdrawal)
        await self._run(self._publish(message, f"cancellation of {withdrawal.item.display}"))
        return task_name(withdrawal.item)

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        message = notice_message(self._settings.queue, command)
        await self._run(self._publish(message, f"/{command.name} on {command.item.display}"))
        return CommandStored(message.queue)

    async def connected(self) -> bool:
        if self._closed:
            return False
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return await self._io.run(self._probe())
        except Exception as error:
            _logger.debug("RabbitMQ is not reachable: %s", error)
            return False

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._connection is not None:
            await self._io.run(self._connection.close())
        await self._io.stop()

    async def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            work.close()
            raise BrokerError("The queue was closed; this program is ending.")
        return await self._io.run(work)

    # From here on: in the connection's thread.

    async def _publish(self, message: Message, what: str) -> None:
        """Publish within the time that the settings allow.

        A connection that was idle may be dead without a sign of it: the first try on one gets half of the
        time, so that enough is left for a second try on a new one. That can leave the message in the queue
        twice, which the consumer makes harmless (a task's claim, a command's reaction); it never loses one.

        Raises:
            BrokerError: not confirmed.
        """
        loop = asyncio.get_running_loop()
        budget = self._settings.publish_timeout
        deadline = loop.time() + budget
        problem: Exception = BrokerError(f"RabbitMQ did not confirm it within {budget:g} s")
        tries = 0
        while tries < 2 and loop.time() < deadline:
            is_new = not self._is_alive()
            try:
                async with asyncio.timeout_at(deadline):
                    channel = await self._open_channel()
            except TimeoutError:
                break
            except BrokerError as error:
                problem = error
                await asyncio.sleep(min(_RECONNECT_SECONDS, max(0.0, deadline - loop.time())))
                continue
            tries += 1
            now = loop.time()
            try:
                async with asyncio.timeout_at(deadline if is_new or tries > 1 else (now + deadline) / 2):
                    await channel.publish(message)
            except TimeoutError:
                _logger.warning("RabbitMQ did not confirm %s in time", what)
            except BrokerError as error:
                problem = error
            else:
                return
            self._drop(channel)  # a confirmation that comes later must not be taken for another message's
        raise BrokerError(f"Not queued: {what}: {problem}")

    async def _exists(self, queue: str) -> bool:
        budget = self._settings.publish_timeout
        try:
            async with asyncio.timeout(budget):
                await self._open_channel()
                assert self._connection is not None  # noqa: S101 - opened above
                await self._connection.declare(queue, passive=True)
        except TimeoutError as error:
            if self._channel is not None:
                self._drop(self._channel)
            raise BrokerError(f"Not queued: RabbitMQ did not answer within {budget:g} s") from error
        except ChannelRefusedError:
            return False
        except BrokerError as error:
            raise BrokerError(f"Not queued: {error}") from error
        return True

    async def _after_publishing(self, task: QueuedTask, waiting: str) -> None:
        """Best effort.

        Without the waiting queue a poll publishes the item once more, and the consumer drops the message.
        Without the notice the item shows nothing until the task starts.
        """
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                channel = await self._open_channel()
                arguments = dict(WAITING_ARGUMENTS)
                await channel.call(
                    channel.raw.queue_declare, queue=waiting, durable=True, arguments=arguments
                )
                await channel.publish(notice_message(self._settings.queue, task))
        except (BrokerError, TimeoutError) as error:
            _logger.debug("Could not publish that %s waits: %s", task.name, error)

    async def _probe(self) -> bool:
        for _ in range(2):
            is_new = not self._is_alive()
            channel = await self._open_channel()
            assert self._connection is not None  # noqa: S101 - opened above
            if self._connection.blocked:
                return False
            try:
                async with asyncio.timeout(_PROBE_SECONDS / 2):
                    await channel.call(channel.raw.queue_declare, queue=self._settings.queue, passive=True)
            except (BrokerError, TimeoutError):
                self._drop(channel)
                if is_new:
                    return False
            else:
                return True
        return False

    def _is_alive(self) -> bool:
        return (
            self._connection is not None
            and self._connection.is_open
            and self._channel is not None
            and self._channel.is_open
        )

    async def _open_channel(self) -> ConfirmingChannel:
        async with self._connecting:
            if not self._is_alive():
                if self._connection is not None:
                    self._connection.drop()
                connection = await Connection.open(
                    self._settings, self._secrets, self._settings.publish_timeout
                )
                try:
                    await connection.declare_durable(*self._queues)
                    self._channel = await ConfirmingChannel.open(connection)
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
