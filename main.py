"""The one command line of the system: `main.py [--config FILE] [--mode webhook|consumer|producer]`.

Each mode needs only its own program installed; an image holds one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from coding_agent_core.errors import CodingAgentError, SettingsError
from coding_agent_core.logs import configure
from coding_agent_core.settings import Settings, load_settings
from coding_agent_core.settings.model import Backend

if TYPE_CHECKING:
    from coding_agent_core.queues.memory import MemoryQueue
    from coding_agent_core.queues.protocol import TaskSource

EX_CONFIG = 78
EX_TEMPORARY = 75

_logger = logging.getLogger("coding_agent.main")


def main(argv: list[str] | None = None) -> int:
    """Run a mode; the exit status: 0, 75 (try again later) or 78 (mend the configuration)."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(arguments.config)
        configure(settings.logging)
        asyncio.run(_run(arguments, settings))
    except SettingsError as error:
        print(f"Configuration error:\n{error}", file=sys.stderr)
        return EX_CONFIG
    except CodingAgentError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EX_TEMPORARY
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Label an issue, get a pull request.")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration file (default: $CONFIG_FILE, else config.yaml in the current folder)",
    )
    parser.add_argument(
        "--mode",
        choices=["webhook", "consumer", "producer"],
        help="webhook: receive webhooks; with the in-memory queue also work on the tasks. "
        "consumer: work on queued tasks. producer: poll the forge once (for cron). "
        "Without a mode: poll once, then work on what was found.",
    )
    parser.add_argument(
        "--loop", action="store_true", help="with --mode producer: poll every scheduling.interval seconds"
    )
    return parser


async def _run(arguments: argparse.Namespace, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    match arguments.mode:
        case "webhook":
            await _webhook(settings, stop)  # uvicorn handles the signals
            return
        case _:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
    match arguments.mode:
        case "consumer":
            _needs_broker(settings, "consumer")
            await _consumer(settings, stop, None)
        case "producer":
            _needs_broker(settings, "producer")
            await _producer(settings, stop, loop_forever=arguments.loop)
        case None:
            await _producer_then_consumer(settings, stop)


def _needs_broker(settings: Settings, mode: str) -> None:
    if settings.backend is Backend.MEMORY:
        raise SettingsError(
            f"--mode {mode} needs a queue that outlives the process: set USE_RABBITMQ=true (use_rabbitmq), "
            "or run `main.py --mode webhook` or `main.py` without a mode, which do everything in one process"
        )


async def _webhook(settings: Settings, stop: asyncio.Event) -> None:
    from coding_agent_core.queues.connect import connect_sink
    from coding_agent_receiver.server import serve

    if settings.backend is not Backend.MEMORY:
        sink = connect_sink(settings)
        try:
            await serve(settings, sink)
        finally:
            await sink.aclose()
        return
    # With the in-memory queue a task lives in this process only, so this process must also do the work.
    queue = _memory_queue()
    worker = asyncio.create_task(_consumer(settings, stop, queue))
    server = asyncio.create_task(serve(settings, queue))
    done, _ = await asyncio.wait({worker, server}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    if worker in done:
        server.cancel()
    await asyncio.gather(worker, server)


async def _consumer(settings: Settings, stop: asyncio.Event, queue: MemoryQueue | None) -> None:
    from coding_agent_consumer.program import run_consumer
    from coding_agent_core.queues.connect import connect_source

    source: TaskSource = queue or connect_source(settings)
    try:
        await run_consumer(settings, source, stop)
    finally:
        await source.aclose()


async def _producer(settings: Settings, stop: asyncio.Event, *, loop_forever: bool) -> None:
    from coding_agent_core.forge.connect import connect
    from coding_agent_core.queues.connect import connect_sink
    from coding_agent_receiver.poller import poll_forever, poll_once

    async with AsyncExitStack() as stack:
        forge = connect(settings, settings.task_source)
        stack.push_async_callback(forge.aclose)
        sink = connect_sink(settings)
        stack.push_async_callback(sink.aclose)
        if loop_forever:
            await poll_forever(settings, forge, sink, stop)
        else:
            await poll_once(settings, forge, sink)


async def _producer_then_consumer(settings: Settings, stop: asyncio.Event) -> None:
    if settings.backend is not Backend.MEMORY:
        await _producer(settings, stop, loop_forever=False)
        await _consumer(settings, stop, None)
        return
    from coding_agent_core.forge.connect import connect
    from coding_agent_receiver.poller import poll_once

    queue = _memory_queue()
    forge = connect(settings, settings.task_source)
    try:
        await poll_once(settings, forge, queue)
    finally:
        await forge.aclose()
    queue.close()
    await _consumer(settings, stop, queue)


def _memory_queue() -> MemoryQueue:
    from coding_agent_core.queues.memory import MemoryQueue

    return MemoryQueue()


if __name__ == "__main__":
    sys.exit(main())
