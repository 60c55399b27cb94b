"""The lock of an item among all consumers of a broker: an exclusive queue (decision record 0005).

An exclusive queue belongs to the connection that declared it; any other that declares it is refused with 405,
and it vanishes with its connection, also when the process is killed.
"""

from __future__ import annotations

import asyncio

from coding_agent_core.queues.rabbitmq.amqp import ChannelRefusedError, Connection

RESOURCE_LOCKED = 405
_PAUSE_SECONDS = 0.1


async def lock(connection: Connection, name: str, patience: float) -> bool:
    """Take a lock for this connection; `False` if another has it and keeps it for `patience` seconds.

    The patience covers the moment between the death of a holder and the broker's notice of it.

    Raises:
        BrokerError: the connection is gone.
    """
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        channel = await connection.channel()
        try:
            await channel.call(channel.raw.queue_declare, queue=name, exclusive=True)
        except ChannelRefusedError as error:
            if error.code != RESOURCE_LOCKED:
                raise
        else:
            channel.close()
            return True
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(_PAUSE_SECONDS)


async def unlock(connection: Connection, name: str) -> None:
    """Let go of a lock of this connection.

    Raises:
        BrokerError: the connection is gone, and the lock with it.
    """
    channel = await connection.channel()
    await channel.call(channel.raw.queue_delete, queue=name)
    channel.close()
