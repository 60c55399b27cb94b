"""The operator as a program: `main.py --mode operator` calls `run`."""

from __future__ import annotations

import asyncio

from coding_agent_core.kubernetes.controller import serve_probes
from coding_agent_core.logs import configure
from coding_agent_core.settings.model import Logging

from coding_agent_operator.cluster import connect
from coding_agent_operator.namespaces import WATCHED, Namespaces, cancelled
from coding_agent_operator.settings import OperatorSettings
from coding_agent_operator.watching import watch


async def run(settings: OperatorSettings, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, which SIGTERM and SIGINT do.

    Raises:
        SettingsError: this process has no credentials for a cluster.
    """
    operator = settings.operator
    stop = stop or asyncio.Event()
    server = await connect(operator.request_limit)
    namespaces = Namespaces(server, settings)
    probes = await serve_probes(
        operator.http_host, operator.http_port, alive=namespaces.alive, ready=namespaces.ready
    )
    watching = watch(
        WATCHED,
        namespaces.observe,
        namespaces=namespaces.names,
        stop=stop,
        restart=namespaces.restart_watches,
    )
    work = [asyncio.create_task(namespaces.run()), asyncio.create_task(watching)]
    try:
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancelled(work)
        await probes.cleanup()
        await server.aclose()


def main(settings: OperatorSettings, logging: Logging | None = None) -> None:
    """Run in a loop of its own."""
    configure(logging or Logging())
    asyncio.run(run(settings))
