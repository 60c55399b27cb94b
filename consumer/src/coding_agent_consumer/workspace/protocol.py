"""What the agent can ask of a workspace. The workspace is not trusted: its answers are data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coding_agent_core.errors import CodingAgentError


class WorkspaceRefusedError(CodingAgentError):
    """The request cannot be done (no such file, text not found, …); the message is for the model."""


class WorkspaceGoneError(CodingAgentError):
    """The workspace does not answer; the attempt cannot continue in it."""


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    Attributes:
        exit_code: as a shell reports it (128 + signal if killed); `None` after a timeout.
        output: standard output and error in their order, cut in the middle at the output limit.
        seconds: run time.
    """

    exit_code: int | None
    output: str
    truncated: bool
    timed_out: bool
    seconds: float


class Workspace(Protocol):
    """A tree in which commands run. Paths are relative to its root; a path that leaves it is refused."""

    async def ping(self) -> str:
        """An id that changes when the workspace restarts; `WorkspaceGoneError` if it does not answer."""
        ...

    async def seed(self, bundle: Path, branch: str) -> None:
        """Create the tree from a git bundle and check out `branch`.

        The bundle is sent over the socket, so the two sides need no shared folder.
        """
        ...

    async def diff(self) -> bytes:
        """All changes since `seed` as a binary git patch (`git diff --binary --full-index`), at most 64 MiB.

        It includes new files that `.gitignore` does not name, and is empty if nothing changed.
        """
        ...

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        """Run a command with `bash -c` (else `sh -c`) in the tree's root.

        Args:
            command: text for the shell.
            timeout: seconds, at most the workspace's own limit; then all that it started is killed.
        """
        ...

    async def read_file(self, path: str, *, start_line: int = 1, line_count: int | None = None) -> str:
        """Numbered lines of a text file, with a note if lines were omitted."""
        ...

    async def write_file(self, path: str, content: str) -> None:
        """Create or replace a file, with its parent folders."""
        ...

    async def edit_file(self, path: str, old: str, new: str) -> None:
        """Replace `old`, which must occur exactly once in the file."""
        ...

    async def list_files(self, path: str = ".") -> str:
        """Files below a folder, one per line, without ignored files; bounded."""
        ...

    async def search(self, pattern: str, path: str = ".") -> str:
        """Lines that match a regular expression, as `path:line: text`; bounded."""
        ...
