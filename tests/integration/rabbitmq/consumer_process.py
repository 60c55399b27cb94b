"""A consumer that takes one task, claims its item, says so, and then holds on until it is killed."""

import asyncio
import json
import sys

from coding_agent_core.queues.rabbitmq import RabbitMQSource
from coding_agent_core.settings.model import RabbitMQ


async def main(port: int, queue: str) -> None:
    source = RabbitMQSource(RabbitMQ(host="127.0.0.1", port=port, queue=queue), {})
    async for claim in source.claims(asyncio.Event()):
        async with claim.item_lock() as held:
            print(json.dumps({"uuid": claim.task.uuid, "claimed": held}), flush=True)
            await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
