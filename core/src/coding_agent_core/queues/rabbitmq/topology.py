"""Makes sure that queues exist before something is published to them."""

from __future__ import annotations

import logging

from coding_agent_core.queues.rabbitmq.amqp import ChannelRefusedError, Connection
from coding_agent_core.queues.rabbitmq.messages import (
    dead_queue,
    delay_arguments,
    delay_queue,
)

_logger = logging.getLogger("coding_agent.queue")
PRECONDITION_FAILED = 406


async def declare_queues(connection: Connection, queue: str) -> None:
    """The main queue and that of the dead: durable, without arguments, as the existing system has it."""
    for name in (queue, dead_queue(queue)):
        await declare_durable(connection, name)


async def declare_durable(connection: Connection, name: str) -> None:
    """A durable queue without arguments.

    One that exists with other arguments (an operator's wish, e.g. a quorum queue) is used as it is.
    """
    channel = await connection.channel()
    try:
        await channel.call(channel.raw.queue_declare, queue=name, durable=True)
        channel.close()
    except ChannelRefusedError as error:
        if error.code != PRECONDITION_FAILED:
            raise
        _logger.warning("The queue %s exists with arguments of its own and is used as it is: %s", name, error)


async def declare_delay(connection: Connection, queue: str, seconds: int) -> str:
    """The queue in which tasks wait so many seconds; its name."""
    name = delay_queue(queue, seconds)
    channel = await connection.channel()
    arguments = delay_arguments(queue, seconds)
    await channel.call(channel.raw.queue_declare, queue=name, durable=True, arguments=arguments)
    channel.close()
    return name
