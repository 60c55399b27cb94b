"""The agent's client of a workspace, over a socket. It limits the size of answers, and never trusts them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from coding_agent_core.runtime.retry import Deadline

from coding_agent_consumer.workspace import framing
from coding_agent_consumer.workspace.files import cut_end
from coding_agent_consumer.workspace.framing import END_SECONDS
from coding_agent_consumer.workspace.protocol import (
    CommandResult,
    ProcessSpec,
    RunningProcess,
    WorkspaceGoneError,
    WorkspaceRequestError,
    exit_code_of,
    invalid_answer,
)

_logger = logging.getLogger("coding_agent.workspace")

_EXCHANGE_SECONDS = 400.0
"""An operation with git in the workspace may take this long; git itself has 300 s."""
_CONNECT_SECONDS = 10.0
_GRACE_SECONDS = END_SECONDS + 20.0
"""Added to a command's own time, for the start, the killing and the answer."""
_POLL_SECONDS = 0.2
_MAX_REFUSAL = 4000
_MAX_COMMAND_SECONDS = 1e6
_KILLED = 137
"""Exit status of a killed command, as a shell reports it."""
_RESTARTED = (
    "The workspace stopped during this and was restarted. Its files are kept. A command stops it when it "
    "uses up the memory or kills the workspace's own process."
)
_INTERRUPTED = "It answers again. The interrupted operation was abandoned; the files are kept."

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]
Exchange = Callable[..., Awaitable[tuple[dict[str, Any], bytes]]]


class WorkspaceClient:
    """A workspace behind a Unix socket; implements `Workspace`.

    The client runs one exchange at a time. Cancelling an exchange kills its command.

    The socket's path is used once, before any command runs, because a command can put a socket of its own
    there. This first connection is the *session*. Each exchange has a socket pair, one end of which is passed
    over the session. Only the end of the program that serves the session closes it, and then the path is used
    again.

    Args:
        restart_patience: seconds to wait for a container that restarts; 0 if nothing restarts the program.
        restarts: gets a line each time that the program is started again, from a process that no command can
            end; `None`: the end of the session shows that all commands have ended too.
    """

    def __init__(
        self,
        path: Path,
        *,
        command_timeout: float,
        output_limit: int,
        restart_patience: float = 0.0,
        restarts: asyncio.StreamReader | None = None,
    ) -> None:
        self._path = path
        self._session: socket.socket | None = None
        self._restarts = restarts
        self._command_timeout = command_timeout
        self._output_limit = output_limit
        # Line numbers, notes on omitted text and one long first line come on top of the limit.
        self._text_limit = 2 * output_limit + 10_000
        self._exchange = asyncio.Lock()
        self._process: RunningProcess | None = None
        self.restart_patience = restart_patience

    async def connect(self, patience: float) -> None:
        """Wait until the workspace answers.

        Raises:
            WorkspaceGoneError: the workspace does not answer within `patience` seconds.
        """
        deadline = Deadline.after(patience)
        while True:
            try:
                await self._open_session(deadline)
                await self.ping()
            except WorkspaceGoneError as error:
                if deadline.passed:
                    raise WorkspaceGoneError(
                        f"The workspace's container has not answered for {patience:.0f} s: {error}"
                    ) from error
            else:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    async def _open_session(self, deadline: Deadline) -> socket.socket:
        """Open a session and return it, unless there is one whose program has not ended.

        Raises:
            WorkspaceGoneError: the program cannot be reached.
        """
        if self._session is not None:
            if not _is_closed(self._session):
                return self._session
            if self._restarts is not None:
                await self._restarted(self._restarts, deadline)
            self.close()
        session = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        session.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(session, str(self._path))
        except BaseException as error:
            session.close()
            if isinstance(error, OSError):  # or a TimeoutError, which is one
                raise WorkspaceGoneError("The workspace is gone: its socket is closed.") from error
            raise
        self._session = session
        return session

    async def _restarted(self, restarts: asyncio.StreamReader, deadline: Deadline) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline.left)):
                line = await restarts.readline()
        except (OSError, ValueError) as error:
            raise WorkspaceGoneError("The workspace was not restarted.") from error
        if not line:
            raise WorkspaceGoneError("The workspace's container has ended.")

    async def ping(self) -> None:
        await self._ask({"op": "ping"}, timeout=_CONNECT_SECONDS)

    async def seed(self, seed: framing.Seed) -> None:
        # A restarted workspace discards a partial seed, so seeding can be repeated.
        await self._seed(seed, "", self._ask_again)

    async def start_over(self, seed: framing.Seed) -> None:
        await self._seed(seed, "all", self._ask_again)

    async def restore(self, seed: framing.Seed) -> None:
        # A second try could lose what the first one had not moved yet.
        await self._seed(seed, "tracked", self._ask)

    async def _seed(self, seed: framing.Seed, over: str, ask: Exchange) -> None:
        files = await asyncio.to_thread(seed.files)
        size = sum(size for _, size in files)
        if size > framing.MAX_SEED:
            raise WorkspaceRequestError("The repository is larger than 4 GiB, which a workspace cannot hold.")
        header = {
            "op": "seed",
            "over": over,
            "branch": seed.branch,
            "commit": seed.commit,
            "folders": seed.folders,
            "files": [(path.name, size) for path, size in files],
        }

        async def send(writer: asyncio.StreamWriter) -> None:
            for path, _ in files:
                with path.open("rb") as file:
                    while data := await asyncio.to_thread(file.read, 16 * framing.CHUNK):
                        writer.write(data)
                        await writer.drain()

        await ask(header, send=send, length=size)

    async def diff(self) -> framing.Patch:
        if self._process is not None:
            return await self._process.diff()
        return framing.Patch.of(*await self._ask_again({"op": "diff"}, limit=framing.MAX_PATCH))

    @contextlib.asynccontextmanager
    async def start(self, process: ProcessSpec, *, timeout: float) -> AsyncIterator[RunningProcess]:
        body = process.to_json()
        if len(body) > framing.BODY_LIMITS["start"]:
            raise WorkspaceRequestError(
                f"The command, variables and files have {len(body)} bytes, which is too many."
            )
        async with self._exchange, contextlib.AsyncExitStack() as stack:
            with _as_gone():
                reader, writer = await stack.enter_async_context(self._connection())
                writer.write(framing.encode_header({"op": "start", "timeout": timeout}, len(body)) + body)
                await writer.drain()

            async def receive() -> tuple[dict[str, Any], bytes]:
                with _as_gone():
                    return await _receive(reader, framing.MAX_PATCH)

            stream = self._process = RunningProcess(receive, writer)
            reading = asyncio.create_task(stream.read())
            try:
                yield stream
            finally:
                self._process = None
                reading.cancel()

    async def run(self, command: str, *, timeout: float | None = None) -> CommandResult:
        limit = self._command_timeout if timeout is None else min(timeout, self._command_timeout)
        if not limit > 0:
            raise WorkspaceRequestError("The time limit of a command must be more than 0 seconds.")
        header = {"op": "run", "timeout": limit, "output_limit": self._output_limit}
        began = time.monotonic()
        try:
            fields, body = await self._ask(
                header,
                command.encode("utf-8", "replace"),
                # The server ends the command at the limit; we wait longer for its answer.
                timeout=limit + _GRACE_SECONDS,
                limit=framing.MAX_TEXT,
            )
        except WorkspaceGoneError as error:
            reason = await self._reconnect(error)
            return CommandResult(_KILLED, reason, truncated=False, seconds=time.monotonic() - began)
        seconds = framing.number(fields.get("seconds"), most=_MAX_COMMAND_SECONDS)
        if seconds is None:
            raise invalid_answer("the duration is not a number of seconds")
        return CommandResult(
            exit_code=exit_code_of(fields),
            output=self._text(fields, body),
            truncated=fields.get("truncated") is True,
            seconds=seconds,
        )

    async def read_file(self, path: str, *, start_line: int = 1, line_count: int | None = None) -> str:
        header = {
            "op": "read_file",
            "path": path,
            "start_line": start_line,
            "line_count": line_count,
            "output_limit": self._output_limit,
        }
        return self._text(*await self._ask_again(header, limit=framing.MAX_TEXT))

    async def write_file(self, path: str, content: str) -> None:
        await self._ask_again({"op": "write_file", "path": path}, content.encode("utf-8", "replace"))

    async def edit_file(self, path: str, old: str, new: str) -> None:
        before = old.encode("utf-8", "replace")
        header = {"op": "edit_file", "path": path, "old_length": len(before)}
        try:
            await self._ask(header, before + new.encode("utf-8", "replace"))
        except WorkspaceGoneError as error:
            # The request is not repeated, because the edit may have been made.
            reason = await self._reconnect(error)
            raise WorkspaceRequestError(f"{reason} Check whether {path} was edited.") from error

    async def list_files(self, path: str = ".") -> str:
        header = {"op": "list_files", "path": path, "output_limit": self._output_limit}
        return self._text(*await self._ask_again(header, limit=framing.MAX_TEXT))

    async def search(self, pattern: str, path: str = ".") -> str:
        header = {"op": "search", "path": path, "output_limit": self._output_limit}
        return self._text(
            *await self._ask_again(header, pattern.encode("utf-8", "replace"), limit=framing.MAX_TEXT)
        )

    def _text(self, fields: object, body: bytes) -> str:
        return cut_end(body.decode("utf-8", "replace"), self._text_limit)

    async def _ask_again(
        self, header: dict[str, Any], body: bytes = b"", **options: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Run an operation that can be repeated, and repeat it if the workspace restarted meanwhile."""
        try:
            return await self._ask(header, body, **options)
        except WorkspaceGoneError as error:
            await self._reconnect(error)
            return await self._ask(header, body, **options)

    async def _reconnect(self, error: WorkspaceGoneError) -> str:
        """Wait until the workspace answers again. Return a text for the model that says why it did not.

        Raises:
            WorkspaceGoneError: nothing restarts the workspace, or it does not answer in time.
        """
        if not self.restart_patience:
            raise error
        _logger.warning("%s Waiting for the workspace to answer again.", error)
        before = self._session
        await self.connect(self.restart_patience)
        reason = f"{error} {_INTERRUPTED}" if self._session is before else _RESTARTED
        _logger.warning("The workspace answers again. %s", reason)
        return reason

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
        """Send one request and return its answer.

        Raises:
            WorkspaceRequestError: the workspace refuses the request, or the request is too large.
            WorkspaceGoneError: the workspace does not answer, or its answer is not valid.
        """
        length = len(body) if length is None else length
        most = framing.BODY_LIMITS[header["op"]]
        if length > most:
            raise WorkspaceRequestError(f"The request has {length} bytes; the limit is {most}.")
        try:
            head = framing.encode_header(header, length)
        except framing.WireError as error:
            raise WorkspaceRequestError("The path is too long.") from error
        async with self._exchange:
            try:
                with _as_gone():
                    async with asyncio.timeout(timeout), self._connection() as (reader, writer):
                        writer.write(head)
                        if send is None:
                            writer.write(body)
                            await writer.drain()
                        else:
                            await send(writer)
                        fields, answer = await _receive(reader, max(limit, _MAX_REFUSAL))
            except TimeoutError as error:
                raise WorkspaceGoneError(f"The workspace did not answer within {timeout:.0f} s.") from error
        # The answer comes from where the commands run, so nothing but a literal true counts.
        if fields.get("ok") is not True:
            reason = cut_end(answer.decode("utf-8", "replace"), _MAX_REFUSAL)
            raise WorkspaceRequestError(reason or "The workspace refused the request.")
        return fields, answer

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        session = self._session
        if session is None:
            session = await self._open_session(Deadline.after(_CONNECT_SECONDS))
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(session, [b"\0"], [theirs.fileno()])
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        try:
            yield reader, writer
        finally:
            writer.transport.abort()  # close at once, even with data unsent: the server kills the command


def _is_closed(session: socket.socket) -> bool:
    """Whether the other end of a session, which never sends anything, is closed."""
    try:
        return session.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def _receive(reader: asyncio.StreamReader, limit: int) -> tuple[dict[str, Any], bytes]:
    prefix = await reader.readexactly(framing.PREFIX.size)
    text = await reader.readexactly(framing.header_length(prefix))
    fields, length = framing.decode_header(text, limit)
    return fields, await reader.readexactly(length)


@contextlib.contextmanager
def _as_gone() -> Iterator[None]:
    """Report a broken connection, or an invalid answer, as a workspace that is gone."""
    try:
        yield
    except TimeoutError:  # this is an OSError too, but the caller knows how long it waited
        raise
    except (OSError, asyncio.IncompleteReadError) as error:
        raise WorkspaceGoneError("The workspace is gone: its process or its socket closed.") from error
    except framing.WireError as error:
        raise invalid_answer(str(error)) from error
