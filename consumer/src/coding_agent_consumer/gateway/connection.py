"""What a client's connection may cost: how many there are, and how long each may say or read nothing.

Whatever runs in the workspace can connect. The credential is checked later, by the application.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTIONS = 128
"""At a time, idle ones included."""
HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head."""
HEAD_SECONDS = 20.0
"""Between requests, in which the next one's head must be complete."""
READ_SECONDS = 60.0
"""In which a client must take what it was sent; then it counts as gone, and its answer is read to the end."""


class ClientConnection(HttpToolsProtocol):
    """uvicorn's protocol with bounds that it does not have."""

    _head_deadline: asyncio.TimerHandle | None = None
    _read_deadline: asyncio.TimerHandle | None = None
    _head = 0
    """Bytes of the head that is arriving."""
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head_deadline, self._read_deadline)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > HEAD_LIMIT:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._in_head = False
        _cancel(self._head_deadline)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request is there already
            _cancel(self._head_deadline)
            # Also where the rest of a refused body still arrives.
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_deadline = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._read_deadline)


def _cancel(*deadlines: asyncio.TimerHandle | None) -> None:
    for deadline in deadlines:
        if deadline is not None:
            deadline.cancel()
