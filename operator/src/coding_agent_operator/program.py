"""The operator as a program: `main.py --mode operator` calls `run`."""

from __future__ import annotations

import asyncio

import kopf
from coding_agent_core.logs import configure
from coding_agent_core.settings.model import Logging

from coding_agent_operator import (
    handlers,  # noqa: F401 - it registers kopf's handlers
    places,
)
from coding_agent_operator.settings import OperatorSettings


async def run(settings: OperatorSettings, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, or (where that is `None`) until SIGTERM or SIGINT."""
    if settings.operator.namespaces:
        await places.serve(settings, stop)
        return
    await kopf.operator(
        memo=kopf.Memo(settings=settings),
        namespaces=[settings.namespace],
        clusterwide=False,
        standalone=True,
        stop_flag=stop,
    )


def main(settings: OperatorSettings, logging: Logging | None = None) -> None:
    """Run in a loop of its own."""
    configure(logging or Logging())
    asyncio.run(run(settings))
