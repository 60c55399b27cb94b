"""Coroutines around pika in a separate thread: connections, channels, deliveries and item locks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection

from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.runtime.retry import Deadline
from coding_agent_core.settings.model import RabbitMQ
from coding_agent_core.settings.section import Secrets

_logger = logging.getLogger("coding_agent.queue")

RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
_LOCK_PAUSE = 0.1
_T = TypeVar("_T")


class BrokerError(QueueUnavailableError):
    """The error if the broker cannot be reached, refuses a request, or does not answer in time."""


class ChannelClosedError(BrokerError):
    """The error if the broker has closed the channel.

    Attributes:
        code: the AMQP reply code: 404 (no such queue), 405 (locked by another connection), or 406 (other
            arguments, or `consumer_timeout`).
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class IoThread:
    """An event loop in its own thread, so that heartbeats continue while a task blocks the program's loop.

    The first call of `run` starts the thread.
    """

    def __init__(self, name: str) -> None:
        self.stopped = False
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the thread and wait for its end. If the wait is cancelled, so is the coroutine.

        Raises:
            BrokerError: the thread was stopped, either before the call or during it.
        """
        if self.stopped:
            work.close()
            raise self._stopped_error()
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # This is a daemon thread, so that a program can end even if it did not close its queue.
            self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
            self._thread.start()
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self.stopped and not (caller is not None and caller.cancelling()):
                raise self._stopped_error() from None  # nobody cancelled the caller
            raise

    def _stopped_error(self) -> BrokerError:
        return BrokerError(f"The connection was closed; this program is ending ({self._name}).")

    async def stop(self) -> None:
        """Cancel all coroutines in the thread, then end the thread."""
        self.stopped = True
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_cancel_others(), loop))
        loop.call_soon_threadsafe(loop.stop)
        # A thread that hangs must not keep the program from ending.
        await asyncio.to_thread(thread.join, 5)
        if not thread.is_alive():
            loop.close()
        self._loop = self._thread = None


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Connection:
    """An open connection to the broker.

    Attributes:
        raw: pika's connection.
        closed: a future that is done when the connection is gone; its result is the reason.
        blocked: whether the broker accepts no messages now, because it is short of memory or disk space.
    """

    def __init__(self) -> None:
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.blocked = False
        self.raw: Any = None

    @classmethod
    async def open(cls, settings: RabbitMQ, secrets: Secrets, timeout: float) -> Connection:
        """Connect and log in within `timeout` seconds. If several passwords are valid, try each of them.

        Raises:
            BrokerError: the broker is unreachable, refused the connection, or is too slow.
        """
        where = f"RabbitMQ at {settings.host}:{settings.port}"
        try:
            async with asyncio.timeout(timeout):
                *others, last = secrets.current() or ["guest"]
                # While a password is rotated, the broker may know only the old one or only the new one.
                for password in others:
                    try:
                        return await cls._open(settings, password, timeout)
                    except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError):
                        continue
                return await cls._open(settings, last, timeout)
        except TimeoutError as error:
            raise BrokerError(f"{where} did not answer within {timeout:g} s") from error
        except Exception as error:
            raise BrokerError(f"{where} refused the connection: {text(error)}") from error

    @classmethod
    async def _open(cls, settings: RabbitMQ, password: str, timeout: float) -> Connection:
        connection = cls()
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()

        def on_error(_raw: object, error: BaseException) -> None:
            if not opened.done():
                opened.set_exception(_cause(error))

        connection.raw = AsyncioConnection(
            pika.ConnectionParameters(
                host=settings.host,
                port=settings.port,
                credentials=pika.PlainCredentials(settings.user, password),
                # Without heartbeats, a connection that a firewall dropped would look open for hours.
                heartbeat=settings.heartbeat,
                socket_timeout=timeout,
                stack_timeout=timeout,
                # The broker's management pages show this name.
                client_properties={"connection_name": "coding-agent"},
            ),
            on_open_callback=lambda _raw: _resolve(opened, None),
            on_open_error_callback=on_error,
            on_close_callback=lambda _raw, reason: _resolve(connection.closed, reason),
            custom_ioloop=loop,
        )
        try:
            await opened
        except BaseException:
            connection.drop()
            raise
        connection.raw.add_on_connection_blocked_callback(lambda *_: setattr(connection, "blocked", True))
        connection.raw.add_on_connection_unblocked_callback(lambda *_: setattr(connection, "blocked", False))
        return connection

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as we know: a dead peer is noticed after two heartbeats."""
        return bool(self.raw.is_open)

    async def declare(self, queue: str, **arguments: Any) -> Any:
        """Declare a queue on a separate channel and return the broker's answer.

        Raises:
            ChannelClosedError: the broker refused the declaration.
        """
        channel = await Channel.open(self)
        # A refused declaration closes its channel, so none that is in use declares a queue.
        frame = await channel.call(channel.raw.queue_declare, queue=queue, **arguments)
        channel.close()
        return frame

    async def declare_durable(self, *queues: str, arguments: Mapping[str, object] | None = None) -> None:
        """Declare durable queues, by default without arguments, as the existing system declares its queues.

        A queue that exists with other arguments, e.g. as a quorum queue, is used unchanged.
        """
        for queue in queues:
            try:
                await self.declare(queue, durable=True, arguments=dict(arguments or {}))
            except ChannelClosedError as error:
                if error.code != PRECONDITION_FAILED:
                    raise
                _logger.warning(
                    "The queue %s exists with other arguments and is used unchanged: %s", queue, error
                )

    async def lock(self, name: str, patience: float) -> bool:
        """Take a lock for this connection. Return `False` if another keeps it for `patience` seconds.

        The lock is an exclusive queue: the broker refuses the declaration of any other connection with 405.
        The broker deletes the queue when the connection ends, even if the process is killed, so that a lock
        needs no timeout.

        Raises:
            BrokerError: the connection is gone.
        """
        deadline = Deadline.after(patience)
        while True:
            try:
                await self.declare(name, exclusive=True)
            except ChannelClosedError as error:
                if error.code != RESOURCE_LOCKED:
                    raise
            else:
                return True
            if deadline.passed:
                return False
            await asyncio.sleep(_LOCK_PAUSE)

    async def delete(self, *queues: str) -> None:
        """Delete queues if they exist. To release a lock, delete its queue.

        Raises:
            BrokerError: the connection is gone, and its locks are gone with it.
        """
        channel = await Channel.open(self)
        for queue in queues:
            await channel.call(channel.raw.queue_delete, queue=queue)
        channel.close()

    def drop(self) -> None:
        """Start to close the connection, without waiting."""
        if not (self.raw.is_closing or self.raw.is_closed):
            self.raw.close()

    async def close(self) -> None:
        """Close the connection and wait for at most 2 seconds. Messages sent before still arrive."""
        self.drop()
        await asyncio.wait([self.closed], timeout=2)


@dataclass(frozen=True)
class UnackedDelivery:
    """A delivered message that is not acknowledged yet.

    If its channel is closed first, the broker delivers the message again.
    """

    channel: Channel
    tag: int
    redelivered: bool
    headers: dict[str, object] | None
    body: bytes

    def acknowledge(self) -> None:
        if self.channel.is_open:
            self.channel.raw.basic_ack(self.tag)

    def requeue(self) -> None:
        if self.channel.is_open:
            self.channel.raw.basic_nack(self.tag, requeue=True)


class Channel:
    """An open channel.

    Attributes:
        raw: pika's channel.
        closed: a future that is done when the channel is gone; its result is the reason.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.raw: Any = None
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, connection: Connection) -> Self:
        channel = cls(connection)
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            channel.raw = connection.raw.channel(on_open_callback=lambda _raw: _resolve(opened, None))
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ did not open a channel: {text(error)}") from error
        channel.raw.add_on_close_callback(lambda _raw, reason: _resolve(channel.closed, reason))
        await channel.wait(opened)
        return channel

    @property
    def is_open(self) -> bool:
        return bool(self.raw.is_open) and self.connection.is_open

    async def call(self, method: Callable[..., object], **arguments: Any) -> Any:
        """Call a method of `raw`, and return the broker's response, a pika frame.

        Raises:
            ChannelClosedError: the broker closed the channel.
            BrokerError: the connection is gone.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(callback=lambda frame: _resolve(answer, frame), **arguments)
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ's channel is closed: {text(error)}") from error
        return await self.wait(answer)

    async def wait(self, future: asyncio.Future[_T]) -> _T:
        """Wait for a future while the channel is open.

        Raises:
            ChannelClosedError: the broker closed the channel.
            BrokerError: the connection is gone.
        """
        try:
            ends: list[asyncio.Future[Any]] = [future, self.closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
        finally:
            future.cancel()
        raise closed_error(self.closed.result())

    async def consume(self, queue: str, on_delivery: Callable[[UnackedDelivery], None]) -> None:
        """Receive the queue's messages, with at most one unacknowledged at a time.

        If the queue is deleted, the channel is closed.
        """

        def deliver(_raw: object, method: Any, properties: Any, body: bytes) -> None:
            on_delivery(
                UnackedDelivery(self, method.delivery_tag, method.redelivered, properties.headers, body)
            )

        await self.call(self.raw.basic_qos, prefetch_count=1)
        self.raw.add_on_cancel_callback(lambda _frame: self.close())
        await self.call(self.raw.basic_consume, queue=queue, on_message_callback=deliver)

    def close(self) -> None:
        if self.is_open:
            self.raw.close()


def closed_error(reason: BaseException) -> BrokerError:
    """Return our error for the reason that pika gives for a closed channel or connection."""
    if isinstance(reason, exceptions.ChannelClosedByBroker):
        message = f"RabbitMQ closed the channel: {reason.reply_text}"
        return ChannelClosedError(message, int(reason.reply_code))
    return BrokerError(f"The connection to RabbitMQ was lost: {text(reason)}")


def was_silent(connection: Connection) -> bool:
    """Whether the connection ended for lack of heartbeats, so that the broker may not know of its end yet."""
    return connection.closed.done() and isinstance(
        connection.closed.result(), exceptions.AMQPHeartbeatTimeout
    )


def text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    """Return the cause within pika's errors: `AMQPConnectionError(AMQPConnectionWorkflowFailed([...]))`."""
    for _ in range(5):
        parts = (*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args)
        inner = [part for part in parts if isinstance(part, BaseException)]
        if not inner:
            break
        error = inner[-1]
    return error


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
