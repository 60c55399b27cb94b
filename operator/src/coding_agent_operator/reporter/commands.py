"""Executes the commands that wait on AgentTasks (docs/decisions/0015)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from coding_agent_core.agenttask import parse_spec
from coding_agent_core.commands import (
    LABEL_COMMANDS,
    PENDING,
    CommandMetrics,
    CommandName,
    ExecutionResult,
    Target,
    TaskRequests,
    execute,
    executed,
    next_command,
)
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.runs import latest_of, phase_of, runs_of
from coding_agent_core.kubernetes.transport import Body
from coding_agent_core.outcome import Phase
from prometheus_client import REGISTRY

from coding_agent_operator.observed import read_task

_logger = logging.getLogger("coding_agent.commands")
_METRICS = CommandMetrics(REGISTRY)


def is_pending(labels: Mapping[str, str]) -> bool:
    """Whether a command waits on a task with these labels."""
    return labels.get(LABEL_COMMANDS) == PENDING


async def execute_next(body: Body, forge: Forge, requests: TaskRequests, tasks: AgentTasks) -> bool:
    """Execute one command of this AgentTask and remove it; `False`: none waits.

    Raises:
        ForgeUnavailableError, QueueUnavailableError, ApiError: not now; call it again later.
    """
    stored = next_command(body)
    if stored is None:
        return False
    try:
        command = stored.issue_command(parse_spec(body))
    except ValueError as error:
        _logger.warning("A command on %s cannot be read: %s", body["metadata"]["name"], error)
        result = ExecutionResult.FAILED
    else:

        async def phase() -> Phase | None:
            runs = runs_of(command.item, await tasks.runs(read_task(body).item))
            latest = latest_of(runs)
            if latest is None:
                return None
            return Phase.CANCELLED if latest.cancel_requested else phase_of(runs[-1])

        result = await execute(command, Target(forge, requests, phase), _METRICS)
    stopped = stored.command is CommandName.CANCEL and result in (
        ExecutionResult.DONE,
        ExecutionResult.NOTHING,
    )
    # If the task has changed meanwhile the command is executed again, which does nothing twice.
    await tasks.patch(body, executed(body, stored, stopped=stopped))
    return True
