"""A process in the workspace whose output and input stream, as the agent sees it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from coding_agent_consumer.workspace import wire
from coding_agent_consumer.workspace.protocol import (
    ProcessResult,
    ProcessSpec,
    WorkspaceGoneError,
    WorkspaceRefusedError,
)

MAX_LINE = 4 * 1024 * 1024
"""Bytes; a longer line is left out."""

Receive = Callable[[], Awaitable[tuple[dict[str, Any], bytes]]]


def start_request(process: ProcessSpec, timeout: float) -> tuple[dict[str, Any], bytes]:
    """Header and body of the request that starts it."""
    fields = {"argv": process.argv, "env": dict(process.env), "files": dict(process.files)}
    return {"op": "start", "timeout": timeout}, json.dumps(fields).encode()


class ProcessStream:
    """Implements `RunningProcess` over one connection; `read` must run until it returns.

    It reads at once whatever arrives, so that an agent that is busy stops neither the process nor the answer
    to `diff`. The workspace bounds how much that is.
    """

    def __init__(self, receive: Receive, writer: asyncio.StreamWriter) -> None:
        self._receive = receive
        self._writer = writer
        self._output: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._diffs: deque[asyncio.Future[bytes]] = deque()
        self._result: asyncio.Future[ProcessResult] = asyncio.get_running_loop().create_future()

    async def read(self) -> None:
        """Take all frames up to the answer."""
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
        except (WorkspaceGoneError, WorkspaceRefusedError) as error:
            self._result.set_exception(error)
            self._result.exception()  # whoever waits gets it; nobody need wait
        finally:
            for waiting in self._diffs:
                if not waiting.done():
                    waiting.set_exception(WorkspaceGoneError("The process in the workspace has ended."))
            self._output.put_nowait(None)

    async def lines(self) -> AsyncIterator[bytes]:
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
        return await asyncio.shield(self._result)

    async def write(self, data: bytes, *, end: bool = False) -> None:
        if len(data) > wire.MAX_TEXT:
            raise WorkspaceRefusedError(f"The input has {len(data)} bytes; the limit is {wire.MAX_TEXT}.")
        await self._send({"op": "input", "end": end}, data)

    async def diff(self, *, finished: bool) -> bytes:
        """The patch while the process runs."""
        if self._result.done():
            raise WorkspaceGoneError("The process in the workspace has ended.")
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._diffs.append(waiting)
        try:
            await self._send({"op": "diff", "finished": finished}, b"")
        except BaseException:
            waiting.cancel()  # nobody waits for it
            raise
        return await waiting

    async def _send(self, header: dict[str, Any], body: bytes) -> None:
        self._writer.write(wire.encode_header(header, len(body)) + body)
        try:
            await self._writer.drain()
        except OSError as error:
            raise WorkspaceGoneError("The workspace is gone: its socket closed.") from error

    def _answer_diff(self, fields: dict[str, Any], body: bytes) -> None:
        waiting = self._diffs.popleft() if self._diffs else None
        if waiting is None or waiting.done():
            return
        if fields.get("ok") is True:
            waiting.set_result(body)
        else:
            waiting.set_exception(WorkspaceRefusedError(body.decode("utf-8", "replace")))


def _result_of(fields: dict[str, Any], body: bytes) -> ProcessResult:
    text = body.decode("utf-8", "replace")
    if fields.get("ok") is not True:
        raise WorkspaceRefusedError(text or "The workspace refused the request.")
    code = fields.get("exit_code")
    if code is not None and (type(code) is not int or not 0 <= code <= 255):
        raise WorkspaceGoneError("The workspace sent an invalid answer: the exit status is not a number.")
    return ProcessResult(exit_code=code, errors=text, truncated=fields.get("truncated") is True)
