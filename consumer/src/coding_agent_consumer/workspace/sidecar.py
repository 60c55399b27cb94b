"""A workspace in a container of its own, which is started again when it ends: a command may end it.

Where the kernel kills all of a container's processes when its memory runs out (cgroup v2, Kubernetes' default
since 1.28), a greedy command takes the serving program along. The tree is in a volume, so the work goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from coding_agent_core.settings.model import Workspace as WorkspaceSettings

from coding_agent_consumer.workspace.client import WorkspaceClient
from coding_agent_consumer.workspace.protocol import (
    CommandResult,
    Workspace,
    WorkspaceGoneError,
    WorkspaceRefusedError,
)

_logger = logging.getLogger("coding_agent.workspace")
_T = TypeVar("_T")
_POLL = 0.2
"""Seconds between two tries to connect."""
_KILLED = 137
"""Exit status of what was killed, as a shell reports it."""
_ENDED = (
    "The workspace ended and was started again, most likely because its memory ran out. Its files are kept."
)


async def sidecar(settings: WorkspaceSettings, socket: Path) -> SidecarWorkspace:
    """The workspace behind a socket, once it answers.

    Raises:
        WorkspaceGoneError: it does not within `settings.start_timeout`.
    """
    client = WorkspaceClient(
        socket, command_timeout=settings.command_timeout, output_limit=settings.output_limit
    )
    workspace = SidecarWorkspace(client, settings.start_timeout)
    await workspace.answers()
    return workspace


@dataclass
class SidecarWorkspace:
    """Implements `Workspace`: what it was doing when its container ended has failed, and nothing else.

    Attributes:
        patience: seconds in which it must answer again; the kubelet waits up to 5 minutes between restarts of
            a container that ends again and again.
    """

    client: Workspace
    patience: float

    async def answers(self) -> None:
        """Wait until it answers.

        Raises:
            WorkspaceGoneError: it does not, for too long.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                await self.client.ping()
            except WorkspaceGoneError as error:
                if time.monotonic() > deadline:
                    raise WorkspaceGoneError(
                        f"The workspace's container has not answered for {self.patience:.0f} s: {error}"
                    ) from error
            else:
                return
            await asyncio.sleep(_POLL)

    async def ping(self) -> None:
        """See `Workspace.ping`."""
        await self.client.ping()

    async def seed(self, bundle: Path, branch: str) -> None:
        """See `Workspace.seed`; a part that was seeded is thrown away when the container starts again."""
        await self._again(lambda: self.client.seed(bundle, branch))

    async def diff(self) -> bytes:
        """See `Workspace.diff`."""
        return await self._again(self.client.diff)

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        """See `Workspace.run`; a command whose container ended was killed."""
        began = time.monotonic()
        try:
            return await self.client.run(command, timeout=timeout)
        except WorkspaceGoneError as error:
            await self._back(error)
        return CommandResult(_KILLED, _ENDED, False, False, time.monotonic() - began)

    async def read_file(self, path: str, *, start_line: int = 1, line_count: int | None = None) -> str:
        """See `Workspace.read_file`."""
        return await self._again(
            lambda: self.client.read_file(path, start_line=start_line, line_count=line_count)
        )

    async def write_file(self, path: str, content: str) -> None:
        """See `Workspace.write_file`."""
        await self._again(lambda: self.client.write_file(path, content))

    async def edit_file(self, path: str, old: str, new: str) -> None:
        """See `Workspace.edit_file`; not done again, for it may have been done."""
        try:
            await self.client.edit_file(path, old, new)
        except WorkspaceGoneError as error:
            await self._back(error)
            raise WorkspaceRefusedError(f"{_ENDED} Look whether {path} was edited.") from error

    async def list_files(self, path: str = ".") -> str:
        """See `Workspace.list_files`."""
        return await self._again(lambda: self.client.list_files(path))

    async def search(self, pattern: str, path: str = ".") -> str:
        """See `Workspace.search`."""
        return await self._again(lambda: self.client.search(pattern, path))

    async def aclose(self) -> None:
        """It belongs to the pod and ends with it."""
        await self.client.aclose()

    async def _again(self, action: Callable[[], Awaitable[_T]]) -> _T:
        """Do what can be done twice, once more if need be."""
        try:
            return await action()
        except WorkspaceGoneError as error:
            await self._back(error)
        return await action()

    async def _back(self, error: WorkspaceGoneError) -> None:
        _logger.warning("%s Waiting for the workspace's container to start again.", error)
        await self.answers()
        _logger.warning("The workspace's container has started again")
