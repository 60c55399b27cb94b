"""Commands in comments, carried out on AgentTasks (docs/decisions/0015)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from coding_agent_core.agenttask import parse_spec
from coding_agent_core.carry_out import CommandMetrics, Place, Result, Runs, carry_out
from coding_agent_core.command_notes import (
    LABEL_COMMANDS,
    LABEL_MAILBOX,
    PENDING,
    Noted,
    is_mailbox,
    noted_on,
    settled,
)
from coding_agent_core.commands import Standing
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.kubernetes.agenttasks import AgentTasks
from coding_agent_core.kubernetes.runs import latest_of, phase_of, runs_of
from coding_agent_core.kubernetes.transport import Body
from prometheus_client import REGISTRY

from coding_agent_operator.observed import read_task

_logger = logging.getLogger("coding_agent.commands")
_METRICS = CommandMetrics(REGISTRY)


def waits(labels: Mapping[str, str]) -> bool:
    """Whether a task with these labels has something for `handle`."""
    return labels.get(LABEL_COMMANDS) == PENDING or labels.get(LABEL_MAILBOX) == "true"


async def handle(body: Body, forge: Forge, runs: Runs, tasks: AgentTasks) -> bool:
    """Carry out what waits longest on this AgentTask and note the result; whether the task has changed.

    It can be repeated, and is to be repeated until it says no. A mailbox goes once nothing waits in it.

    Args:
        runs: where new runs are asked for, with the admission that everybody asks.

    Raises:
        ForgeUnavailableError, QueueUnavailableError, ApiError: not now; call it again later.
    """
    noted = next((each for each in noted_on(body) if each.pending), None)
    if noted is not None:
        result = await _carry_out(body, noted, forge, runs, tasks)
        # If others have written meanwhile it is carried out once more, which does nothing twice.
        await tasks.patch(body, settled(body, noted.comment, result))
        return True
    if not is_mailbox(body):
        return False
    # A command that came in between keeps it.
    meta = body["metadata"]
    if await tasks.delete(meta["name"], meta["uid"], meta["resourceVersion"]):
        _logger.info("Removed %s: its commands are carried out", body["metadata"]["name"])
    return True


async def _carry_out(body: Body, noted: Noted, forge: Forge, runs: Runs, tasks: AgentTasks) -> Result:
    try:
        command = noted.of(parse_spec(body))
    except ValueError as error:  # written by hand or by another release
        _logger.warning("A command on %s cannot be read: %s", body["metadata"]["name"], error)
        return Result.FAILED

    async def look() -> Standing:
        found = runs_of(command.item, await tasks.runs(read_task(body).item))
        return Standing(open=True, latest=latest_of(found), phase=phase_of(found[-1]) if found else None)

    # Nothing shows the comment anew: the report tells of a `/status` that was answered, and so it changes.
    return (await carry_out(command, forge, Place(runs, look), _METRICS)).result
