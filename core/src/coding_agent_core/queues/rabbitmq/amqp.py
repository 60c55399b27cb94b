"""pika's callbacks as coroutines: a connection, its channels, confirmed publishing. No rule of ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Self

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection

from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.queues import RabbitMQ

# It reports each failed socket with a traceback; what matters is raised, and logged here as one line.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class BrokerError(QueueUnavailableError):
    """The broker cannot be reached, refused something, or did not answer in time."""


class ChannelRefusedError(BrokerError):
    """The broker closed the channel.

    Attributes:
        code: AMQP reply code: 404 no such queue, 405 locked by another connection, 406 other arguments or
            `consumer_timeout`.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Connection:
    """An open connection. Belongs to the loop that opened it.

    Attributes:
        closed: done when the connection is gone, with the reason.
        blocked: the broker takes no messages from us now (its memory or disk is short).
    """

    def __init__(self) -> None:
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.blocked = False
        self._raw: Any = None

    @classmethod
    async def open(cls, settings: RabbitMQ, secrets: Secrets, timeout: float) -> Connection:
        """Connect and log in, within `timeout` seconds. While a password is rotated, each is tried.

        Raises:
            BrokerError: unreachable, refused, or too slow.
        """
        try:
            async with asyncio.timeout(timeout):
                passwords = secrets.current() or ["guest"]
                for password in passwords[:-1]:
                    try:
                        return await cls._open(settings, password, timeout)
                    except (exceptions.AuthenticationError, exceptions.ProbableAuthenticationError):
                        continue
                return await cls._open(settings, passwords[-1], timeout)
        except TimeoutError as error:
            raise BrokerError(f"{_where(settings)} did not answer within {timeout:g} s") from error
        except Exception as error:
            raise BrokerError(f"{_where(settings)} refused the connection: {_told(error)}") from error

    @classmethod
    async def _open(cls, settings: RabbitMQ, password: str, timeout: float) -> Connection:
        connection = cls()
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()

        def on_error(_raw: object, error: BaseException) -> None:
            if not opened.done():
                opened.set_exception(_cause(error))

        connection._raw = AsyncioConnection(
            pika.ConnectionParameters(
                host=settings.host,
                port=settings.port,
                credentials=pika.PlainCredentials(settings.user, password),
                heartbeat=settings.heartbeat,
                socket_timeout=timeout,
                stack_timeout=timeout,
                client_properties={"connection_name": "coding-agent"},
            ),
            on_open_callback=lambda _raw: None if opened.done() else opened.set_result(None),
            on_open_error_callback=on_error,
            on_close_callback=lambda _raw, reason: _settle(connection.closed, reason),
            custom_ioloop=loop,
        )
        try:
            await opened
        except BaseException:
            connection.drop()
            raise
        connection._raw.add_on_connection_blocked_callback(lambda *_: setattr(connection, "blocked", True))
        connection._raw.add_on_connection_unblocked_callback(lambda *_: setattr(connection, "blocked", False))
        return connection

    @property
    def is_open(self) -> bool:
        """Whether nothing is known against it; a dead peer shows after two heartbeats only."""
        return bool(self._raw.is_open)

    async def channel(self) -> Channel:
        """Open a channel."""
        return await Channel.open(self._raw)

    async def confirming_channel(self) -> ConfirmingChannel:
        """Open a channel for publishing."""
        channel = await ConfirmingChannel.open(self._raw)
        await channel.call(channel.raw.confirm_delivery, ack_nack_callback=channel.on_confirm)
        channel.raw.add_on_return_callback(channel.on_return)
        return channel

    def drop(self) -> None:
        """Start to close it and look at it no more."""
        if not (self._raw.is_closing or self._raw.is_closed):
            self._raw.close()

    async def close(self) -> None:
        """Close it; what is sent already still arrives. Gives up waiting after 2 seconds."""
        self.drop()
        await asyncio.wait([self.closed], timeout=2)


class Channel:
    """An open channel.

    Attributes:
        raw: pika's channel, for calls without answer.
        closed: done when the channel is gone, with the reason.
    """

    def __init__(self) -> None:
        self.raw: Any = None
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, connection: Any) -> Self:
        """Open a channel of this class."""
        channel = cls()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            channel.raw = connection.channel(on_open_callback=lambda _raw: _settle(opened, None))
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ opened no channel: {_told(error)}") from error
        channel.raw.add_on_close_callback(lambda _raw, reason: _settle(channel.closed, reason))
        await channel.answered(opened)
        return channel

    @property
    def is_open(self) -> bool:
        """Whether it still works."""
        return bool(self.raw.is_open)

    async def call(self, method: Callable[..., object], **arguments: Any) -> Any:
        """Call a method of `raw` and wait for the broker's answer (a pika frame).

        Raises:
            ChannelRefusedError: the broker closed the channel instead.
            BrokerError: the connection is gone.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            method(callback=lambda frame: _settle(answer, frame), **arguments)
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ's channel is closed: {_told(error)}") from error
        return await self.answered(answer)

    async def answered(self, answer: asyncio.Future[Any]) -> Any:
        """Wait for a future of this channel, no longer than the channel lives."""
        await asyncio.wait([answer, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise closed_error(self.closed.result())

    def close(self) -> None:
        """Close it, if it is open."""
        if self.is_open:
            self.raw.close()


class ConfirmingChannel(Channel):
    """A channel on which the broker confirms each message. Several may be on their way at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._sent = 0
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._returnable: dict[str, int] = {}

    async def publish(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Send a message to a queue and wait until the broker has it safely (on disk, if both are durable).

        `properties.message_id` must tell messages apart that are on their way at the same time.

        Raises:
            BrokerError: not confirmed; the message may be in the queue all the same.
        """
        self._sent += 1
        number = self._sent
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[number] = confirmed
        self._returnable[str(properties.message_id)] = number
        try:
            self.raw.basic_publish("", queue, body, properties, mandatory=True)
            await self.answered(confirmed)
        except exceptions.AMQPError as error:
            raise BrokerError(f"RabbitMQ's channel is closed: {_told(error)}") from error
        finally:
            self._unconfirmed.pop(number, None)
            self._returnable.pop(str(properties.message_id), None)

    def on_confirm(self, frame: Any) -> None:
        """Callback of `confirm_delivery`."""
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

    def on_return(self, _raw: object, method: Any, properties: Any, _body: bytes) -> None:
        """Callback for messages that no queue took; it comes before the message's confirmation."""
        confirmed = self._unconfirmed.get(self._returnable.get(str(properties.message_id), 0))
        if confirmed is not None and not confirmed.done():
            confirmed.set_exception(BrokerError(f"RabbitMQ has no queue {method.routing_key!r} any more"))


def closed_error(reason: BaseException) -> BrokerError:
    """The error of ours for why a channel or connection is gone."""
    if isinstance(reason, exceptions.ChannelClosedByBroker):
        message = f"RabbitMQ closed the channel: {reason.reply_text}"
        return ChannelRefusedError(message, int(reason.reply_code))
    return BrokerError(f"The connection to RabbitMQ is gone: {_told(reason)}")


def _where(settings: RabbitMQ) -> str:
    return f"RabbitMQ at {settings.host}:{settings.port}"


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    """The reason inside pika's wrappers: `AMQPConnectionError(AMQPConnectionWorkflowFailed([...]))`."""
    for _ in range(5):
        parts = (*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args)
        inner = [part for part in parts if isinstance(part, BaseException)]
        if not inner:
            break
        error = inner[-1]
    return error


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
