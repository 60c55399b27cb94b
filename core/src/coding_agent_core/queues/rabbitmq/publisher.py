"""Publishes tasks and notices to RabbitMQ, and receives the notices.

When `submit` returns, the broker has confirmed the task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import pika
from pika import exceptions

from coding_agent_core.queues.interfaces import LookRequest, Notice
from coding_agent_core.queues.rabbitmq.connection import (
    BrokerError,
    Channel,
    ChannelClosedError,
    Connection,
    IoThread,
    UnackedDelivery,
    text,
)
from coding_agent_core.queues.rabbitmq.messages import (
    NOTICE_ARGUMENTS,
    PUBLISH_S,
    WAITING_ARGUMENTS,
    Message,
    command_queue,
    dead_queue,
    decode_notice,
    lock_queue,
    notice_message,
    rescans_queue,
    sign_queue,
    task_message,
    waiting_message,
    waiting_queue,
)
from coding_agent_core.runtime.retry import Deadline, StoppedError, first_of, run_until
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.admission import Cancel
from coding_agent_core.task.commands import CommandIgnored, CommandStored, IssueCommand
from coding_agent_core.task.model import (
    Item,
    Origin,
    Submission,
    TaskRequest,
    Withdrawal,
    new_uuid,
    task_name,
)
from coding_agent_core.task.queued_task import QueuedTask

_logger = logging.getLogger("coding_agent.queue")
_PROBE_SECONDS = 1.8
_RECONNECT_SECONDS = 0.2
_NOTICES_CONNECT_SECONDS, _NOTICES_RECONNECT_SECONDS = 10.0, 2.0
_TRANSIENT, _PERSISTENT = 1, 2
_ANNOUNCEMENTS = 256
"""Maximum number of tasks that are announced at once. With more, the broker is busy with the tasks."""


class ConfirmingChannel(Channel):
    """A channel on which the broker confirms each message. Several messages can be unconfirmed at a time."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._sent = 0
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._returnable: dict[str, asyncio.Future[None]] = {}

    @classmethod
    async def open(cls, connection: Connection) -> Self:
        channel = await super().open(connection)
        await channel.call(channel.raw.confirm_delivery, ack_nack_callback=channel._on_confirm)
        channel.raw.add_on_return_callback(channel._on_return)
        return channel

    async def publish(self, message: Message) -> None:
        """Send a message and wait until the broker has it safely (on disk, for a durable queue).

        Raises:
            BrokerError: the broker did not confirm the message, which may nevertheless be in the queue.
        """
        self._sent += 1
        number = self._sent
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[number] = self._returnable[message.id] = confirmed
        properties = pika.BasicProperties(
            delivery_mode=_PERSISTENT if message.persistent else _TRANSIENT,
            content_type="application/json",
            message_id=message.id,
            headers=dict(message.headers) if message.headers else None,
        )
        try:
            # Without `mandatory`, the broker drops a message whose queue does not exist, and confirms it.
            self.raw.basic_publish("", message.queue, message.body, properties, mandatory=True)
            await self.wait(confirmed)
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ's channel is closed: {text(error)}") from error
        finally:
            self._unconfirmed.pop(number, None)
            self._returnable.pop(message.id, None)

    def _on_confirm(self, frame: Any) -> None:
        tag: int = frame.method.delivery_tag
        # The broker may confirm several messages with one frame.
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
        """Handle a message that no queue took. The broker returns it before it confirms it."""
        confirmed = self._returnable.get(str(properties.message_id))
        if confirmed is not None and not confirmed.done():
            confirmed.set_exception(BrokerError(f"RabbitMQ no longer has the queue {method.routing_key!r}"))


class RabbitMQSink:
    """The task sink. It connects for the first task, and sends all tasks over the same connection.

    Args:
        publish_timeout: seconds within which the broker must confirm a message.
    """

    def __init__(self, settings: RabbitMQ, *, publish_timeout: float = PUBLISH_S) -> None:
        self._settings = settings
        self._publish_timeout = publish_timeout
        self._queues = [settings.queue, dead_queue(settings.queue)]
        self._secrets = Secrets(settings.password)
        self._io = IoThread("rabbitmq-publisher")
        self._channel: ConfirmingChannel | None = None
        self._announcements: ConfirmingChannel | None = None
        self._declared: set[str] = set()
        self._connecting, self._declaring = asyncio.Lock(), asyncio.Lock()
        self._announcing: set[asyncio.Task[None]] = set()

    async def submit(self, request: TaskRequest) -> Submission:
        """Publish a task and wait for the broker's confirmation.

        A poll finds the same items again and again, so its task is not published if the item's message still
        waits. The consumer finds all other duplicates on the forge.
        """
        task = QueuedTask(request=request, uuid=new_uuid())
        waiting = waiting_queue(self._settings.queue, request.item)
        polled = request.trigger.origin is Origin.POLL
        # A webhook's label is published always: only the consumer knows whether a run answers it.
        if polled and await self._io.run(self._is_waiting(waiting)):
            return Submission(task.name, duplicate="its message is already in the queue")
        await self._io.run(self._publish_task(task, waiting, wait=polled))
        return Submission(task.name)

    async def withdraw(self, withdrawal: Withdrawal) -> Cancel:
        """Publish the withdrawal as a notice, because a broker cannot take a message back.

        The consumer checks the labels before and during its work.
        """
        message = notice_message(self._settings.queue, withdrawal)
        await self._io.run(self._publish(message, f"cancellation of {withdrawal.item.display}"))
        return Cancel(task_name(withdrawal.item))

    async def command(self, command: IssueCommand) -> CommandStored | CommandIgnored:
        message = notice_message(self._settings.queue, command)
        await self._io.run(self._publish(message, f"/{command.name} on {command.item.display}"))
        return CommandStored(message.queue)

    async def look(self, items: Sequence[Item], author: str = "") -> str | None:
        """Publish a request for a scan. A consumer keeps it only in memory, as it scans regularly too."""
        for item in items[:1]:
            message = notice_message(self._settings.queue, LookRequest(item=item, author=author))
            await self._io.run(self._publish(message, f"rescan of {item.display}"))
            return task_name(item)
        return None

    async def connected(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return await self._io.run(self._probe())
        except Exception as error:
            _logger.debug("RabbitMQ is not reachable: %s", error)
            return False

    async def aclose(self) -> None:
        if (self._channel is not None or self._announcing) and not self._io.stopped:
            await self._io.run(self._close())
        await self._io.stop()

    # All methods from here on run in the connection's thread.

    async def _close(self) -> None:
        await self._announced()
        if self._channel is not None:
            await self._channel.connection.close()

    async def _publish_task(self, task: QueuedTask, waiting: str, *, wait: bool) -> None:
        """Publish a task, then announce it.

        Args:
            wait: whether to return only after the announcement. A webhook's response does not wait.
        """
        await self._publish(task_message(self._settings.queue, task), f"task {task.name}")
        # An announcement costs the broker more than the task. Under load it is skipped, so that no event has
        # to be refused. The item then shows nothing until the task starts.
        if len(self._announcing) >= _ANNOUNCEMENTS:
            return
        announcing = asyncio.create_task(self._announce(task, waiting))
        self._announcing.add(announcing)
        announcing.add_done_callback(self._announcing.discard)
        if wait:
            await announcing

    async def _publish(self, message: Message, what: str) -> None:
        """Publish within the time that the settings allow.

        Two tries can leave the message in the queue twice. This is harmless: a task has its claim, and an
        executed command has our reaction.

        Raises:
            BrokerError: the broker did not confirm the message.
        """
        budget = self._publish_timeout
        deadline = Deadline.after(budget)
        problem: Exception = BrokerError(f"RabbitMQ did not confirm it within {budget:g} s")
        tries = 0
        while tries < 2 and not deadline.passed:
            is_new = not self._is_alive()
            try:
                async with asyncio.timeout(deadline.left):
                    channel = await self._open_channel()
            except TimeoutError:
                break
            except BrokerError as error:
                problem = error
                await asyncio.sleep(min(_RECONNECT_SECONDS, max(0.0, deadline.left)))
                continue
            tries += 1
            try:
                # An idle connection may be dead unnoticed. So the first try gets half of the time, which
                # leaves enough for a second try on a new connection.
                async with asyncio.timeout(deadline.left if is_new or tries > 1 else deadline.left / 2):
                    await self._send(channel, message)
            except TimeoutError:
                _logger.warning("RabbitMQ did not confirm %s in time", what)
            except BrokerError as error:
                problem = error
            else:
                return
            self._drop(channel)  # a late confirmation must not count for another message
        raise BrokerError(f"Not queued: {what}: {problem}")

    async def _send(self, channel: ConfirmingChannel, message: Message) -> None:
        if message.arguments is not None:
            async with self._declaring:  # many messages are sent at the same time
                if message.queue not in self._declared:
                    await channel.connection.declare_durable(message.queue, arguments=message.arguments)
                    self._declared.add(message.queue)
        await channel.publish(message)

    async def _is_waiting(self, queue: str) -> bool:
        await self._announced()  # so that a poll sees everything that this program has published
        budget = self._publish_timeout
        try:
            async with asyncio.timeout(budget):
                frame = await (await self._open_channel()).connection.declare(queue, passive=True)
        except TimeoutError as error:
            if self._channel is not None:
                self._drop(self._channel)
            raise BrokerError(f"Not queued: RabbitMQ did not answer within {budget:g} s") from error
        except ChannelClosedError:
            return False
        except BrokerError as error:
            raise BrokerError(f"Not queued: {error}") from error
        return bool(frame.method.message_count)

    async def _announce(self, task: QueuedTask, waiting: str) -> None:
        """Show polls, and people on the item, that the task waits. A failure is only logged.

        Without the waiting queue, a poll publishes the item once more, and the consumer drops the message.
        Without the notice, the item shows nothing until the task starts.
        """
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                channel = await self._open_announcements()
                arguments = dict(WAITING_ARGUMENTS)
                await channel.call(
                    channel.raw.queue_declare, queue=waiting, durable=True, arguments=arguments
                )
                await asyncio.gather(
                    channel.publish(waiting_message(waiting)),
                    self._send(channel, notice_message(self._settings.queue, task)),
                )
        except (BrokerError, TimeoutError) as error:
            _logger.debug("Could not announce that %s is waiting: %s", task.name, error)

    async def _announced(self) -> None:
        if self._announcing:
            await asyncio.wait(self._announcing)

    async def _probe(self) -> bool:
        for _ in range(2):
            is_new = not self._is_alive()
            channel = await self._open_channel()
            if channel.connection.blocked:
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
        return self._channel is not None and self._channel.is_open

    async def _open_channel(self) -> ConfirmingChannel:
        async with self._connecting:
            if self._channel is not None:
                if self._channel.is_open:
                    return self._channel
                self._channel.connection.drop()
            connection = await Connection.open(self._settings, self._secrets, self._publish_timeout)
            try:
                await connection.declare_durable(*self._queues)
                self._channel = await ConfirmingChannel.open(connection)
                self._declared.clear()  # the last channel may have been dropped because a queue is gone
            except BaseException:
                connection.drop()
                raise
            return self._channel

    async def _open_announcements(self) -> ConfirmingChannel:
        """Open a separate channel, because a slow declaration blocks everything else on its channel."""
        connection = (await self._open_channel()).connection
        async with self._connecting:
            channel = self._announcements
            if channel is None or not channel.is_open or channel.connection is not connection:
                channel = self._announcements = await ConfirmingChannel.open(connection)
            return channel

    def _drop(self, channel: ConfirmingChannel) -> None:
        if channel is self._channel:
            channel.connection.drop()
            self._channel = None


class RabbitMQNotices:
    """The source of notices. Consumers share them, and an unacknowledged one is delivered again."""

    def __init__(self, settings: RabbitMQ) -> None:
        self._settings = settings
        self._forges: dict[str, _ForgeNotices] = {}

    def notices(self, host: str, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        forge = self._forges[host.lower()] = _ForgeNotices(self._settings, host)
        return forge.notices(stop)

    async def looks(self, host: str) -> bool:
        """Whether this process regularly scans our open changes on a forge.

        The connection that holds the exclusive queue `<queue>.rescans.<host>` scans. If no connection holds
        the queue, this one takes it. Without a broker, nobody scans.
        """
        forge = self._forges.get(host.lower())
        return forge is not None and await forge.looks()

    @asynccontextmanager
    async def item_lock(self, item: Item) -> AsyncIterator[bool]:
        forge = self._forges.get(item.host.lower())
        if forge is None:
            raise BrokerError(f"Nothing is received from RabbitMQ for {item.host}")
        async with forge.item_lock(item) as held:
            yield held


class _ForgeNotices:
    """The receiver of the notices about one forge's items, with its own connection and thread."""

    def __init__(self, settings: RabbitMQ, host: str) -> None:
        self._settings = settings
        self._queues = command_queue(settings.queue, host), sign_queue(settings.queue, host)
        self._secrets = Secrets(settings.password)
        self._io = IoThread(f"rabbitmq-notices-{host}")
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._rescans = rescans_queue(settings.queue, host)
        self._inbox: list[deque[UnackedDelivery]] = [deque(), deque()]
        self._arrived = asyncio.Event()
        self._locked: set[str] = set()

    async def notices(self, stop: asyncio.Event) -> AsyncGenerator[Notice, None]:
        try:
            while not stop.is_set():
                try:
                    delivery = await run_until(lambda: self._io.run(self._receive()), stop)
                except StoppedError:
                    break
                except (BrokerError, TimeoutError) as error:
                    _logger.warning("Cannot receive notices now: %s", str(error) or "RabbitMQ is slow")
                    await first_of(asyncio.sleep(_NOTICES_RECONNECT_SECONDS), stop.wait())
                    continue
                try:
                    yield decode_notice(delivery.body)
                except ValueError as error:
                    _logger.warning("Dropped a message that is not a notice: %s", error)
                await self._io.run(_acknowledge(delivery))
        finally:
            await self._io.run(self._close())
            await self._io.stop()

    @asynccontextmanager
    async def item_lock(self, item: Item) -> AsyncIterator[bool]:
        lock = lock_queue(self._settings.queue, item)
        if lock in self._locked:  # the broker would give it to this connection again
            yield False
            return
        self._locked.add(lock)
        try:
            held = await self._io.run(self._lock(lock))
            try:
                yield held
            finally:
                if held:
                    await self._io.run(self._unlock(lock))
        finally:
            self._locked.discard(lock)

    async def looks(self) -> bool:
        try:
            return not self._io.stopped and await self._io.run(self._lock(self._rescans))
        except BrokerError as error:
            _logger.debug("It is not known which process scans the open changes: %s", error)
            return False

    async def _lock(self, lock: str) -> bool:
        connection = self._connection
        if connection is None:
            raise BrokerError("The connection to RabbitMQ was lost")
        try:
            async with asyncio.timeout(_NOTICES_CONNECT_SECONDS):
                return await connection.lock(lock, patience=0)
        except TimeoutError as error:
            # The broker may still give the lock to this connection, which would block all workers.
            connection.drop()
            raise BrokerError(f"RabbitMQ did not answer within {_NOTICES_CONNECT_SECONDS:g} s") from error

    async def _unlock(self, lock: str) -> None:
        """Release the lock, unless the connection is gone and the lock with it."""
        if self._connection is not None:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(_NOTICES_CONNECT_SECONDS):
                    await self._connection.delete(lock)

    async def _receive(self) -> UnackedDelivery:
        """Return the next notice, commands first. At most one notice of each queue is held here."""
        if self._channel is None or not self._channel.is_open:
            if self._connection is not None:
                self._connection.drop()
            self._connection = await Connection.open(self._settings, self._secrets, _NOTICES_CONNECT_SECONDS)
            # These are new because callbacks of the last connection may still be called.
            self._inbox, self._arrived = [deque(), deque()], asyncio.Event()
            async with asyncio.timeout(_NOTICES_CONNECT_SECONDS):
                await self._connection.declare_durable(*self._queues, arguments=NOTICE_ARGUMENTS)
                self._channel = await Channel.open(self._connection)
                for queue, inbox in zip(self._queues, self._inbox, strict=True):
                    await self._channel.consume(queue, _keep_in(inbox, self._arrived))
        while not any(self._inbox):
            self._arrived.clear()
            await self._channel.wait(asyncio.ensure_future(self._arrived.wait()))
        return next(inbox for inbox in self._inbox if inbox).popleft()

    async def _close(self) -> None:
        """Close the connection, including one that `_receive` was opening when it was cancelled."""
        if self._connection is not None:
            await self._connection.close()


def _keep_in(inbox: deque[UnackedDelivery], arrived: asyncio.Event) -> Callable[[UnackedDelivery], None]:
    def keep(delivery: UnackedDelivery) -> None:
        inbox.append(delivery)
        arrived.set()

    return keep


async def _acknowledge(delivery: UnackedDelivery) -> None:
    delivery.acknowledge()
