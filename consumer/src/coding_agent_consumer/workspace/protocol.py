"""What the agent may ask of a workspace. The other end is untrusted: everything that comes back is data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coding_agent_core.errors import CodingAgentError


class WorkspaceRefusedError(CodingAgentError):
    """The request cannot be done as asked (no such file, text not found, …): a sentence for the model."""


class WorkspaceGoneError(CodingAgentError):
    """The workspace does not answer any more; the attempt cannot go on in it."""


@dataclass(frozen=True)
class CommandResult:
    """What a command did.

    Attributes:
        exit_code: as a shell reports it (128 + signal when killed); `None` when it ran out of time.
        output: standard output and error as they came, cut in the middle beyond the output limit.
        seconds: how long it ran.
    """

    exit_code: int | None
    output: str
    truncated: bool
    timed_out: bool
    seconds: float


class Workspace(Protocol):
    """A tree in which commands run. Paths are relative to its root; one that leaves it is refused."""

    async def ping(self) -> str:
        """Whether it answers; `WorkspaceGoneError` if not. An id that changes when it is started again."""
        ...

    async def seed(self, bundle: Path, branch: str) -> None:
        """Make the tree from a git bundle that holds `branch`, checked out on that branch.

        The bundle's bytes are sent over the socket, so both sides need no folder in common.
        """
        ...

    async def diff(self) -> bytes:
        """Everything changed since `seed` as one binary git patch (`git diff --binary --full-index`).

        New files that `.gitignore` does not name are in it. Empty when nothing changed. At most 64 MiB.
        """
        ...

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        """Run a command with `bash -c` (else `sh -c`) in the tree's root.

        Args:
            command: the shell's text.
            timeout: seconds, capped at the workspace's own limit; everything the command started is killed.
        """
        ...

    async def read_file(self, path: str, *, start_line: int = 1, line_count: int | None = None) -> str:
        """Lines of a text file, numbered, with a word on what was left out."""
        ...

    async def write_file(self, path: str, content: str) -> None:
        """Create or replace a file, with the folders above it."""
        ...

    async def edit_file(self, path: str, old: str, new: str) -> None:
        """Replace `old`, which must occur exactly once."""
        ...

    async def list_files(self, path: str = ".") -> str:
        """Files below a folder, one a line, those that git ignores left out; bounded."""
        ...

    async def search(self, pattern: str, path: str = ".") -> str:
        """Lines that match a regular expression, as `path:line: text`; bounded."""
        ...

    async def aclose(self) -> None:
        """End it, with every process that it started."""
        ...
