"""The agent's end of the socket: every exchange bounded in time and size, every answer untrusted."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from coding_agent_consumer.workspace import wire
from coding_agent_consumer.workspace.output import cut_end
from coding_agent_consumer.workspace.processes import END_SECONDS
from coding_agent_consumer.workspace.protocol import CommandResult, WorkspaceGoneError, WorkspaceRefusedError

_EXCHANGE_SECONDS = 400.0
"""For an operation in which the workspace's git works: its own limit is 300 s."""
_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = END_SECONDS + 20.0
"""On top of a command's own time: starting, killing, answering."""
_MAX_REFUSAL = 4000
_MAX_INSTANCE = 64

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]


class WorkspaceClient:
    """A workspace behind a Unix socket. One exchange at a time; a cancelled one ends its command.

    Args:
        socket: the workspace program's.
        command_timeout: seconds, the workspace's own limit for one command.
        output_limit: characters of output, listing or text that it was told to answer at most.
    """

    def __init__(self, socket: Path, *, command_timeout: float, output_limit: int) -> None:
        self._socket = socket
        self._command_timeout = command_timeout
        self._output_limit = output_limit
        # Twice: numbering, notes on what was left out, and one long first line come on top of it.
        self._text_limit = 2 * output_limit + 10_000
        self._turn = asyncio.Lock()

    async def ping(self) -> str:
        """See `Workspace.ping`."""
        fields, _ = await self._ask({"op": "ping"}, timeout=_CONNECT_SECONDS)
        return str(fields.get("instance", ""))[:_MAX_INSTANCE]

    async def seed(self, bundle: Path, branch: str) -> None:
        """See `Workspace.seed`."""
        size = (await asyncio.to_thread(bundle.stat)).st_size
        if size > wire.MAX_BUNDLE:
            raise WorkspaceRefusedError("The repository is too large for a workspace: more than 4 GiB.")

        async def send(writer: asyncio.StreamWriter) -> None:
            with bundle.open("rb") as file:
                while data := await asyncio.to_thread(file.read, 16 * wire.CHUNK):
                    writer.write(data)
                    await writer.drain()

        await self._ask({"op": "seed", "branch": branch}, send=send, length=size)

    async def diff(self) -> bytes:
        """See `Workspace.diff`."""
        _, body = await self._ask({"op": "diff"}, limit=wire.MAX_PATCH)
        return body

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        """See `Workspace.run`."""
        limit = self._command_timeout if timeout is None else min(timeout, self._command_timeout)
        if not limit > 0:
            raise WorkspaceRefusedError("The time for a command must be more than 0 seconds.")
        header = {"op": "run", "timeout": limit, "output_limit": self._output_limit}
        fields, body = await self._ask(
            header, command.encode("utf-8", "replace"), timeout=limit + _GRACE_SECONDS, limit=wire.MAX_TEXT
        )
        code = fields.get("exit_code")
        if code is not None and (type(code) is not int or not 0 <= code <= 255):
            raise _nonsense("an exit status that is none")
        seconds = fields.get("seconds")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
            raise _nonsense("a duration that is none")
        return CommandResult(
            exit_code=code,
            output=self._text(body),
            truncated=fields.get("truncated") is True,
            timed_out=code is None,
            seconds=float(seconds),
        )

    async def read_file(self, path: str, *, start_line: int = 1, line_count: int | None = None) -> str:
        """See `Workspace.read_file`."""
        header = {
            "op": "read_file",
            "path": path,
            "start_line": start_line,
            "line_count": line_count,
            "output_limit": self._output_limit,
        }
        return self._text((await self._ask(header, limit=wire.MAX_TEXT))[1])

    async def write_file(self, path: str, content: str) -> None:
        """See `Workspace.write_file`."""
        await self._ask({"op": "write_file", "path": path}, content.encode("utf-8", "replace"))

    async def edit_file(self, path: str, old: str, new: str) -> None:
        """See `Workspace.edit_file`."""
        before = old.encode("utf-8", "replace")
        header = {"op": "edit_file", "path": path, "old_length": len(before)}
        await self._ask(header, before + new.encode("utf-8", "replace"))

    async def list_files(self, path: str = ".") -> str:
        """See `Workspace.list_files`."""
        header = {"op": "list_files", "path": path, "output_limit": self._output_limit}
        return self._text((await self._ask(header, limit=wire.MAX_TEXT))[1])

    async def search(self, pattern: str, path: str = ".") -> str:
        """See `Workspace.search`."""
        header = {"op": "search", "path": path, "output_limit": self._output_limit}
        return self._text(
            (await self._ask(header, pattern.encode("utf-8", "replace"), limit=wire.MAX_TEXT))[1]
        )

    async def aclose(self) -> None:
        """Nothing stays open between exchanges; `launch_workspace` ends the process that it started."""

    def _text(self, body: bytes) -> str:
        return cut_end(body.decode("utf-8", "replace"), self._text_limit)

    async def _ask(
        self,
        header: dict[str, Any],
        body: bytes = b"",
        *,
        send: Send | None = None,
        length: int | None = None,
        timeout: float = _EXCHANGE_SECONDS,
        limit: int = 0,
    ) -> tuple[dict[str, Any], bytes]:
        """One exchange.

        Raises:
            WorkspaceRefusedError: the workspace says no, or the request is larger than it takes.
            WorkspaceGoneError: it does not answer, or not in our language.
        """
        length = len(body) if length is None else length
        most = wire.BODY_LIMITS[header["op"]]
        if length > most:
            raise WorkspaceRefusedError(f"That is too large: {length} bytes, at most {most} are taken.")
        try:
            head = wire.encode_header(header, length)
        except wire.WireError as error:
            raise WorkspaceRefusedError("The path is too long.") from error
        async with self._turn:
            try:
                async with asyncio.timeout(timeout), self._connect() as (reader, writer):
                    writer.write(head)
                    if send is None:
                        writer.write(body)
                        await writer.drain()
                    else:
                        await send(writer)
                    fields, answer = await _receive(reader, max(limit, _MAX_REFUSAL))
            except TimeoutError as error:
                raise WorkspaceGoneError(f"The workspace did not answer within {timeout:.0f} s.") from error
            except (OSError, asyncio.IncompleteReadError) as error:
                raise WorkspaceGoneError("The workspace is gone: its process or its socket ended.") from error
            except wire.WireError as error:
                raise _nonsense(str(error)) from error
        if fields.get("ok") is not True:
            reason = cut_end(answer.decode("utf-8", "replace"), _MAX_REFUSAL)
            raise WorkspaceRefusedError(reason or "The workspace refused.")
        return fields, answer

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()  # at once, whatever is unsent: the server ends what we asked for


async def _receive(reader: asyncio.StreamReader, limit: int) -> tuple[dict[str, Any], bytes]:
    prefix = await reader.readexactly(wire.PREFIX.size)
    text = await reader.readexactly(wire.header_length(prefix))
    fields, length = wire.decode_header(text, limit)
    return fields, await reader.readexactly(length)


def _nonsense(what: str) -> WorkspaceGoneError:
    return WorkspaceGoneError(f"The workspace answered with something else than was asked for: {what}.")
