"""Answers that leave in one piece: head and body in one write."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class WholeAnswers(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which one is chosen when it is imported
    """uvicorn's HTTP protocol, which writes head and body one after the other.

    A receiver that is killed between the two has told the proxy in front that an answer comes: the proxy has
    begun to pass it on, and cannot ask another replica any more.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the pieces together before they reach the transport."""
        super().connection_made(cast("asyncio.Transport", _Together(cast("asyncio.Transport", transport))))


class _Together:
    """A transport that writes what it is given in one step of the event loop at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
