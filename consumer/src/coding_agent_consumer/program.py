"""Puts the consumer's parts together: forges, agent, workspace, TaskHandler."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from coding_agent_core.forge.connect import connect_all
from coding_agent_core.queues.protocol import TaskSource
from coding_agent_core.settings import Settings

from coding_agent_consumer.agent.models import model_spec
from coding_agent_consumer.agent.run import ModelAgent
from coding_agent_consumer.task_handler import TaskHandler, consume
from coding_agent_consumer.workspace.launch import harden_agent_process, launch_workspace

_logger = logging.getLogger("coding_agent.consumer")


async def run_consumer(settings: Settings, source: TaskSource, stop: asyncio.Event) -> None:
    """Work on tasks until `stop` is set, or the source has no more.

    Raises:
        SettingsError: no forge has a token, or the model is not configured.
    """
    harden_agent_process()
    if not settings.user_config_api.enabled:
        # Known now rather than at the first task; with per-user settings each person may bring a key.
        model_spec(settings.llm)
    async with AsyncExitStack() as stack:
        forges = connect_all(settings)
        for forge in forges.values():
            stack.push_async_callback(forge.aclose)
        handler = TaskHandler(
            settings=settings,
            forges=forges,
            make_agent=ModelAgent,
            open_workspace=lambda: launch_workspace(
                settings.consumer.workspace, hidden=[settings.context_storage.base_dir]
            ),
            shutdown=stop,
        )
        _logger.info("Ready for tasks of %s", ", ".join(sorted(forges)))
        await consume(source, handler, concurrency=settings.consumer.concurrency)
