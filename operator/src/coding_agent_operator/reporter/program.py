"""The reporter as a program: `main.py --mode reporter` calls `run`."""

from __future__ import annotations

import asyncio

import kopf
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.logs import configure
from coding_agent_core.settings import Settings

from coding_agent_operator.reporter import handlers  # noqa: F401 - it registers kopf's handlers
from coding_agent_operator.reporter.forges import connect_paced
from coding_agent_operator.settings import OperatorSettings


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, or (where that is `None`) until SIGTERM or SIGINT.

    Raises:
        SettingsError: no cluster or no forge is configured: said here rather than by kopf.
    """
    Access.find()
    for forge, _ in connect_paced(settings).values():
        await forge.aclose()
    await kopf.operator(
        memo=kopf.Memo(settings=settings),
        namespaces=[OperatorSettings.of(settings).namespace],
        clusterwide=False,
        standalone=True,
        stop_flag=stop,
    )


def main(settings: Settings) -> None:
    """Run in a loop of its own.

    Raises:
        SettingsError: no cluster or no forge is configured.
    """
    configure(settings.logging)
    asyncio.run(run(settings))
