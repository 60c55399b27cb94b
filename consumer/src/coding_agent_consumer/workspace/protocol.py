"""What a workspace offers to the agent, and the form of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class ProcessSpec:
    """A program that runs in the tree's root, with the isolation of a command.

    Attributes:
        argv: the program and its arguments; it is found in the commands' PATH.
        env: variables in addition to those of a command.
        files: text by path in HOME, written before it starts.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ProcessResult:
    """How a process ended.

    Attributes:
        exit_code: as a shell reports it (128 + signal if killed); `None` if its time was over.
        errors: its standard error, cut in the middle.
        truncated: it wrote more than 64 MiB and was killed for it.
    """

    exit_code: int | None
    errors: str
    truncated: bool = False


class RunningProcess(Protocol):
    """A process whose output and input stream."""

    def lines(self) -> AsyncIterator[bytes]:
        """Its standard output, line by line as it arrives; a line of more than 4 MiB is left out.

        Raises:
            WorkspaceGoneError: the workspace is gone.
        """
        ...

    async def write(self, data: bytes, *, end: bool = False) -> None:
        """Send to its standard input; `end` closes it afterwards."""
        ...

    async def wait(self) -> ProcessResult:
        """How it ended; to be called after the last line.

        Raises:
            WorkspaceRefusedError: it could not be started.
            WorkspaceGoneError: the workspace is gone.
        """
        ...


class Workspace(Protocol):
    """A tree in which commands run. Paths are relative to its root; a path that leaves it is refused."""

    async def ping(self) -> None:
        """Does nothing; `WorkspaceGoneError` if it does not answer."""
        ...

    async def seed(self, bundle: Path, branch: str) -> None:
        """Create the tree from a git bundle and check out `branch`.

        The bundle is sent over the socket, so the two sides need no shared folder.
        """
        ...

    async def diff(self, *, finished: bool = True) -> bytes:
        """All changes since `seed` as a binary git patch (`git diff --binary --full-index`), at most 64 MiB.

        It includes new files that `.gitignore` does not name, and is empty if nothing changed.

        Args:
            finished: `False`: leave out new files that are too large, so that unfinished work is kept.

        Raises:
            WorkspaceRefusedError: a changed file or the patch is too large.
        """
        ...

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        """Run a command with `bash -c` (else `sh -c`) in the tree's root.

        Args:
            timeout: seconds, at most the workspace's own limit; then all that it started is killed.
        """
        ...

    def start(self, process: ProcessSpec, *, timeout: float) -> AbstractAsyncContextManager[RunningProcess]:
        """Start a process. At the end of the block it is killed with all that it started.

        Meanwhile `diff` is the only other operation.

        Args:
            timeout: seconds, whatever the limit of a command is.
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
