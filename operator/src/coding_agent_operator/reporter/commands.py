"""Commands that people wrote as comments (docs/decisions/0015): carried out here, where the forge's token is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coding_agent_core.forge.protocol import Forge
from coding_agent_core.queues.protocol import TaskSink

from coding_agent_operator.reporter.api import Tasks

Body = Mapping[str, Any]


def waits(labels: Mapping[str, str]) -> bool:
    """Whether a command waits on the AgentTask with these labels."""
    return False


async def handle(body: Body, forge: Forge, sink: TaskSink, tasks: Tasks) -> bool:
    """Carry out what waits on an AgentTask; whether anything was written to it, so that it is to be read again.

    Called at the beginning of each look at a task, whether it is its item's newest or not.

    Raises:
        ForgeUnavailableError, QueueUnavailableError, ApiError: not now; it is called again later.
    """
    return False
