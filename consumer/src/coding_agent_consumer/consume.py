"""`--mode consumer`: workers that take leases and hand them to the TaskHandler."""

from __future__ import annotations

import asyncio
import logging

from coding_agent_core.queues.protocol import TaskSource

from coding_agent_consumer.task_handler import TaskHandler

_logger = logging.getLogger("coding_agent.consumer")


async def consume(source: TaskSource, handler: TaskHandler, *, concurrency: int) -> None:
    """Work on tasks, `concurrency` at a time, until the handler's `shutdown` is set or the source ends.

    A task whose handling fails unexpectedly is logged and handed out again, at most `max_attempts` times.
    """

    async def work() -> None:
        async for lease in source.leases(handler.shutdown):
            try:
                await handler.handle(lease)
            except Exception:
                _logger.exception("Handling %s failed unexpectedly", lease.task.name)
                consumer = handler.settings.consumer
                if lease.task.attempt < consumer.max_attempts:
                    await lease.retry(consumer.retry_delay)
                else:
                    await lease.dead_letter("handling it failed unexpectedly; the consumer's log tells more")

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
