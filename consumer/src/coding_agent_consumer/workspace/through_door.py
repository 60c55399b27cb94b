"""A workspace for one task, from a container that serves task after task: the consumer's side of `door`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from coding_agent_core.settings.attempts import Workspace as WorkspaceSettings

from coding_agent_consumer.workspace.door import DOOR, WORKSPACE
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceGoneError
from coding_agent_consumer.workspace.sidecar import sidecar

_POLL = 0.2
"""Seconds between two tries to connect."""
_LINE = 8192
"""Bytes of the door's answer that are read: it is not believed to be short."""


@contextlib.asynccontextmanager
async def through_door(settings: WorkspaceSettings, folder: Path) -> AsyncIterator[Workspace]:
    """An empty workspace behind the door in a folder; all of it is removed when the block ends.

    Raises:
        WorkspaceGoneError: there is none within `settings.start_timeout`, e.g. since another task has it.
    """
    try:
        async with asyncio.timeout(settings.start_timeout):
            writer, told = await _enter(folder / DOOR)
    except TimeoutError as error:
        raise WorkspaceGoneError(
            f"No workspace behind {folder / DOOR} within {settings.start_timeout:.0f} s: its container does "
            "not run, or serves another task."
        ) from error
    try:
        if "failed" in told:
            raise WorkspaceGoneError(f"The workspace cannot be started: {str(told['failed'])[:500]}.")
        yield await sidecar(settings, folder / WORKSPACE)
    finally:
        writer.close()  # ends the task on the other side


async def _enter(door: Path) -> tuple[asyncio.StreamWriter, dict[str, object]]:
    """Connect and wait for our turn; tried again while the container starts, or clears up after a task."""
    while True:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            reader, writer = await asyncio.open_unix_connection(door, limit=_LINE)
            try:
                told = json.loads(await reader.readuntil(b"\n"))
            except BaseException:
                writer.close()
                raise
            if isinstance(told, dict):
                return writer, told
            writer.close()
        await asyncio.sleep(_POLL)
