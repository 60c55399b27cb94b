"""A log of the API requests that came in: tests assert on it, and validate it against the vendor's schema."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEPT = 20_000
"""Requests that the log keeps: the newest."""
MAX_BODY = 5_000_000
"""Bytes of a body that are kept for the log."""


@dataclass
class Logged:
    """One request and the status of its answer (0: none was given). Never its headers: they hold tokens.

    Attributes:
        at: when it came in, seconds since the epoch.
    """

    method: str
    path: str
    query: dict[str, str]
    body: Any
    status: int = 0
    response: Any = None
    at: float = field(default_factory=time.time)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "body": self.body,
            "status": self.status,
            "response": self.response,
            "at": self.at,
        }


class RequestLog:
    """ASGI middleware that writes down every request to the API, faults included."""

    def __init__(self, app: ASGIApp, log: deque[Logged]) -> None:
        self.app = app
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            await self.app(scope, receive, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        raw_path = scope.get("raw_path") or scope["path"].encode()
        entry = Logged(scope["method"], raw_path.partition(b"?")[0].decode("latin-1"), query, None)
        self.log.append(entry)
        received, sent = bytearray(), bytearray()

        async def reading() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                received.extend(message.get("body", b"")[: MAX_BODY - len(received)])
                entry.body = _json(received)
            return message

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            elif message["type"] == "http.response.body":
                sent.extend(message.get("body", b"")[: MAX_BODY - len(sent)])
                # Not only with the last part: a client that knows the length does not wait for an empty one.
                entry.response = _json(sent)
            await send(message)

        # The fault middleware below cuts connections through the server's own `send`.
        answering.__self__ = getattr(send, "__self__", None)  # type: ignore[attr-defined]
        await self.app(scope, reading, answering)


def _json(raw: bytearray) -> Any:
    if not raw:
        return None
    try:
        return json.loads(bytes(raw))
    except ValueError:
        return None
