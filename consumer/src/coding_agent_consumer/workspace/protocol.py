"""The agent's interface to a workspace: commands, files, and processes with streamed output and input."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from coding_agent_core.errors import CodingAgentError

from coding_agent_consumer.workspace import framing
from coding_agent_consumer.workspace.framing import Patch, Seed

MAX_LINE = 4 * 1024 * 1024
"""The longest line of a process's output, in bytes; a longer one is left out."""


HOME_FROM_TREE = "../home"
"""The path to HOME of a workspace's programs from the root of its tree, where they start."""


class WorkspaceRequestError(CodingAgentError):
    """The request cannot be done (no such file, text not found, …); the message is for the model."""


class WorkspaceGoneError(CodingAgentError):
    """The workspace does not answer; the attempt cannot continue in it."""


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    Attributes:
        exit_code: the exit status as a shell reports it (128 + signal if killed); `None` after a timeout.
        output: standard output and error in their order, without its middle if it exceeds the output limit.
        truncated: whether the output was cut.
        seconds: the command's run time.
    """

    exit_code: int | None
    output: str
    truncated: bool
    seconds: float

    @property
    def timed_out(self) -> bool:
        return self.exit_code is None


@dataclass(frozen=True)
class ProcessSpec:
    """A program that runs in the tree's root, with the isolation of a command.

    Attributes:
        argv: the program, which is found in the commands' PATH, and its arguments.
        env: variables in addition to those of a command.
        files: text or bytes by path in HOME; the files are written before the program starts.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str | bytes] = field(default_factory=dict, repr=False)

    def to_json(self) -> bytes:
        """Return the specification as the workspace reads it."""
        contents = {
            path: text if isinstance(text, bytes) else text.encode("utf-8", "replace")
            for path, text in self.files.items()
        }
        files = {path: base64.b64encode(content).decode("ascii") for path, content in contents.items()}
        return json.dumps({"argv": self.argv, "env": dict(self.env), "files": files}).encode()


@dataclass(frozen=True)
class ProcessResult:
    """The end of a process.

    Attributes:
        exit_code: the exit status as a shell reports it (128 + signal if killed); `None` after a timeout.
        errors: the process's standard error, without its middle if it is too long.
        truncated: whether the process wrote more than 64 MiB and was killed for that.
    """

    exit_code: int | None
    errors: str
    truncated: bool = False


class RunningProcess:
    """A process with streamed output and input over one connection; `read` must run until it returns.

    Data is read as soon as it arrives, so that a busy agent delays neither the process nor the answer to
    `diff`. The workspace limits the amount of data.
    """

    def __init__(
        self, receive: Callable[[], Awaitable[tuple[dict[str, Any], bytes]]], writer: asyncio.StreamWriter
    ) -> None:
        self._receive = receive
        self._writer = writer
        self._output: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._diffs: deque[asyncio.Future[Patch]] = deque()
        self._result: asyncio.Future[ProcessResult] = asyncio.get_running_loop().create_future()

    async def read(self) -> None:
        """Read all frames up to the answer."""
        try:
            while True:
                fields, body = await self._receive()
                if fields.get("kind") == "output":
                    self._output.put_nowait(body)
                elif fields.get("kind") == "diff":
                    self._answer_diff(fields, body)
                else:
                    self._result.set_result(_result_of(fields, body))
                    return
        except (WorkspaceGoneError, WorkspaceRequestError) as error:
            self._result.set_exception(error)
            self._result.exception()  # retrieve it, so that asyncio does not warn if nobody waits for it
        finally:
            for waiting in self._diffs:
                if not waiting.done():
                    waiting.set_exception(WorkspaceGoneError("The process in the workspace has ended."))
            self._output.put_nowait(None)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the process's standard output line by line; a line of more than 4 MiB is left out."""
        rest, skipping = b"", False
        while (data := await self._output.get()) is not None:
            *whole, end = data.split(b"\n")
            for part in whole:
                if not skipping:
                    yield rest + part
                rest, skipping = b"", False
            skipping = skipping or len(rest) + len(end) > MAX_LINE
            rest = b"" if skipping else rest + end
        self._output.put_nowait(None)
        if rest:
            yield rest

    async def wait(self) -> ProcessResult:
        """Return how the process ended; call this after the last line.

        Raises:
            WorkspaceRequestError: the process could not be started.
            WorkspaceGoneError: the workspace is gone.
        """
        return await asyncio.shield(self._result)

    async def write(self, data: bytes, *, end: bool = False) -> None:
        """Send data to the process's standard input; with `end`, close it afterwards.

        Raises:
            WorkspaceRequestError: the data is too large.
            WorkspaceGoneError: the workspace is gone.
        """
        if len(data) > framing.MAX_TEXT:
            raise WorkspaceRequestError(f"The input has {len(data)} bytes; the limit is {framing.MAX_TEXT}.")
        await self._send({"op": "input", "end": end}, data)

    async def diff(self) -> Patch:
        """Return all changes since `seed`, while the process runs."""
        if self._result.done():
            raise WorkspaceGoneError("The process in the workspace has ended.")
        waiting: asyncio.Future[Patch] = asyncio.get_running_loop().create_future()
        self._diffs.append(waiting)
        try:
            await self._send({"op": "diff"}, b"")
        except BaseException:
            waiting.cancel()  # nobody waits for it
            raise
        return await waiting

    async def _send(self, header: dict[str, Any], body: bytes) -> None:
        self._writer.write(framing.encode_header(header, len(body)) + body)
        try:
            await self._writer.drain()
        except OSError as error:
            raise WorkspaceGoneError("The workspace is gone: its socket closed.") from error

    def _answer_diff(self, fields: dict[str, Any], body: bytes) -> None:
        waiting = self._diffs.popleft() if self._diffs else None
        if waiting is None or waiting.done():
            return
        if fields.get("ok") is True:
            waiting.set_result(Patch.of(fields, body))
        else:
            waiting.set_exception(WorkspaceRequestError(body.decode("utf-8", "replace")))


def _result_of(fields: dict[str, Any], body: bytes) -> ProcessResult:
    text = body.decode("utf-8", "replace")
    if fields.get("ok") is not True:
        raise WorkspaceRequestError(text or "The workspace refused the request.")
    return ProcessResult(exit_code_of(fields), text, truncated=fields.get("truncated") is True)


def exit_code_of(fields: Mapping[str, Any]) -> int | None:
    """Return the exit status in an answer; `None` after a timeout.

    Raises:
        WorkspaceGoneError: the value is not an exit status.
    """
    code = fields.get("exit_code")
    if code is not None and (type(code) is not int or not 0 <= code <= 255):
        raise invalid_answer("the exit status is not a number from 0 to 255")
    return code


def invalid_answer(what: str) -> WorkspaceGoneError:
    return WorkspaceGoneError(f"The workspace sent an invalid answer: {what}.")


class Workspace(Protocol):
    """A tree in which commands run. Paths are relative to its root; a path that leaves it is refused."""

    async def ping(self) -> None:
        """Check that the workspace answers; raise `WorkspaceGoneError` if it does not."""
        ...

    async def seed(self, seed: Seed) -> None:
        """Create the tree, and check out the seed's commit.

        The packs are sent over the socket, so the two sides need no shared folder.
        """
        ...

    async def start_over(self, seed: Seed) -> None:
        """End all processes, remove all files, and create the tree.

        From then on, the workspace answers only this client, because a command can have left requests.

        Raises:
            WorkspaceRequestError: a process cannot be ended, or a file cannot be removed.
        """
        ...

    async def restore(self, seed: Seed) -> None:
        """End all processes, and check out the seed's commit anew. Only this client is answered afterwards.

        Files in the tree that the commit does not track stay, and so do those outside the tree.
        """
        ...

    async def diff(self) -> Patch:
        """Return all changes since `seed`.

        They include new files that `.gitignore` does not name. If the tree has no changes, the newest work of
        another branch, a stash or another worktree counts, because otherwise it would be lost.

        Raises:
            WorkspaceRequestError: the patch is too large.
        """
        ...

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        """Run a command with `bash -c` (or `sh -c` without bash) in the tree's root.

        Args:
            timeout: seconds, at most the workspace's own limit, after which all that it started is killed.
        """
        ...

    def start(self, process: ProcessSpec, *, timeout: float) -> AbstractAsyncContextManager[RunningProcess]:
        """Start a process. At the end of the block, the process and its descendants are killed.

        While the block runs, `diff` is the only other operation.

        Args:
            timeout: the process's time in seconds; the limit of a command does not apply.
        """
        ...

    async def read_file(self, path: str, *, start_line: int = 1, line_count: int | None = None) -> str:
        """Return numbered lines of a text file, with a note if lines were omitted."""
        ...

    async def write_file(self, path: str, content: str) -> None:
        """Create or replace a file, and create its parent folders."""
        ...

    async def edit_file(self, path: str, old: str, new: str) -> None:
        """Replace `old`, which must occur exactly once in the file, with `new`."""
        ...

    async def list_files(self, path: str = ".") -> str:
        """Return the files below a folder, one per line, without ignored files; limited in number."""
        ...

    async def search(self, pattern: str, path: str = ".") -> str:
        """Return lines that match a regular expression, as `path:line: text`; limited in number."""
        ...
