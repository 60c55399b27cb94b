"""A workspace in a container of its own, which is started again when it ends: a command may end it.

Where the kernel kills all of a container's processes when its memory runs out (cgroup v2, Kubernetes' default
since 1.28), a greedy command takes the serving program along. The tree is in a volume, so the work goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from coding_agent_core.settings.attempts import Workspace as WorkspaceSettings

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
_RESTART_SECONDS = 360.0
"""For a container that ended to start again. The kubelet waits longer each time (10 s, 20 s, ... 300 s at
most), looks again up to 15 s after that, and then it has to start."""
_KILLED = 137
"""Exit status of what was killed, as a shell reports it."""
_ENDED = (
    "The workspace ended while it did this, and was started again. Its files are kept. A command ends it by "
    "using up its memory, or by killing its processes."
)
_GIVEN_UP = "It answers again; what it was doing was given up, its files are kept."


async def sidecar(settings: WorkspaceSettings, socket: Path) -> SidecarWorkspace:
    """The workspace behind a socket, once it answers.

    Raises:
        WorkspaceGoneError: it does not within `settings.start_timeout`.
    """
    client = WorkspaceClient(
        socket, command_timeout=settings.command_timeout, output_limit=settings.output_limit
    )
    workspace = SidecarWorkspace(
        client, settings.start_timeout, restart_patience=max(_RESTART_SECONDS, settings.start_timeout)
    )
    await workspace.answers()
    return workspace


@dataclass
class SidecarWorkspace:
    """Implements `Workspace`: what it was doing when its container ended has failed, and nothing else.

    Attributes:
        patience: seconds in which it must answer at first.
        restart_patience: seconds in which it must answer again.
    """

    client: Workspace
    patience: float
    restart_patience: float
    _instance: str = field(default="", init=False)

    async def answers(self) -> None:
        """Wait until it answers.

        Raises:
            WorkspaceGoneError: it does not, for too long.
        """
        self._instance = await self._answer(self.patience)

    async def ping(self) -> str:
        """See `Workspace.ping`."""
        return await self.client.ping()

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
            known = await self._back(error)
        return CommandResult(_KILLED, known, False, False, time.monotonic() - began)

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
            known = await self._back(error)
            raise WorkspaceRefusedError(f"{known} Look whether {path} was edited.") from error

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

    async def _back(self, error: WorkspaceGoneError) -> str:
        """Wait until it answers again; what is known of why it did not."""
        _logger.warning("%s Waiting for the workspace to answer again.", error)
        before, self._instance = self._instance, await self._answer(self.restart_patience)
        known = f"{error} {_GIVEN_UP}" if self._instance == before else _ENDED
        _logger.warning("The workspace answers again. %s", known)
        return known

    async def _answer(self, patience: float) -> str:
        deadline = time.monotonic() + patience
        while True:
            try:
                return await self.client.ping()
            except WorkspaceGoneError as error:
                if time.monotonic() > deadline:
                    raise WorkspaceGoneError(
                        f"The workspace's container has not answered for {patience:.0f} s: {error}"
                    ) from error
            await asyncio.sleep(_POLL)
