"""Faults on demand: the next requests that match answer badly, late or not at all."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Fault(BaseModel):
    """What is to go wrong.

    Attributes:
        id: by which it is read and ended; one is made up if none is given.
        method, path: regular expressions, matched from the start against the request's own.
        times: how many requests it hits; `None`: all until `end`.
        status, headers, body: the answer to give instead; 403 with `secondary_rate_limit` for GitHub's.
        delay_ms: wait so long first; alone, the request then goes its way.
        close: cut the connection: `before` the request is worked on, or `after` it was, its answer lost.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: uuid4().hex[:8], min_length=1, max_length=64)
    method: str = ".*"
    path: str
    times: int | None = Field(default=1, ge=1, le=10_000)
    status: int | None = Field(default=None, ge=200, le=599)
    headers: dict[str, str] = {}
    body: Any = None
    retry_after: int | None = None
    secondary_rate_limit: bool = False
    delay_ms: int = Field(default=0, ge=0, le=60_000)
    close: Literal["before", "after"] | None = None

    _hits: int = PrivateAttr(default=0)
    _stopped: bool = PrivateAttr(default=False)

    @property
    def hits(self) -> int:
        """How many requests it has hit."""
        return self._hits

    @property
    def ended(self) -> bool:
        """Whether it hits nothing any more."""
        return self._stopped or (self.times is not None and self._hits >= self.times)

    def end(self) -> None:
        """Hit nothing from now on; `hits` stays."""
        self._stopped = True

    def hit(self) -> None:
        """Count a request."""
        self._hits += 1

    def matches(self, method: str, path: str) -> bool:
        """Whether it hits this request."""
        return not self.ended and bool(re.fullmatch(self.method, method) and re.match(self.path, path))

    def answer(self) -> tuple[int, dict[str, str], bytes] | None:
        """Status, headers and body to give instead of the real ones; `None`: the real ones."""
        status, body, headers = self.status, self.body, dict(self.headers)
        if self.secondary_rate_limit:
            status = status or 403
            body = body or {
                "message": "You have exceeded a secondary rate limit. Please wait a few minutes before you "
                "try again.",
                "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api",
            }
        if status is None:
            return None
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        headers.setdefault("content-type", "application/json; charset=utf-8")
        if isinstance(body, str):
            return status, headers, body.encode()
        return status, headers, json.dumps(body or {"message": f"sandbox fault {status}"}).encode()


class Faults:
    """ASGI middleware that lets the planted faults happen; the outermost one."""

    def __init__(self, app: ASGIApp, planted: list[Fault]) -> None:
        self.app = app
        self.planted = planted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"].startswith("/_sandbox"):
            await self.app(scope, receive, send)
            return
        fault = self._take(scope["method"], scope["path"])
        if fault is None:
            await self.app(scope, receive, send)
            return
        if fault.delay_ms:
            receive = await _kept(receive)
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.close is not None:
            request = _Whole(receive)
            if fault.close == "after":
                await self.app(scope, request, _swallow)
            await request.read()
            await cut(receive, send)
            return
        answer = fault.answer()
        if answer is None:
            await self.app(scope, receive, send)
            return
        status, headers, body = answer
        headers["content-length"] = str(len(body))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def _take(self, method: str, path: str) -> Fault | None:
        for fault in self.planted:
            if fault.matches(method, path):
                fault.hit()
                return fault
        return None


class _Whole:
    """A request that can be read to its end, however much of it the application has read.

    A connection that is closed with unread bytes is reset, and the client may see that instead of an end.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def read(self) -> None:
        """Read what is left."""
        while not self._ended:
            await self()


async def _kept(receive: Receive) -> Receive:
    """Receive the whole request, and return what gives it again.

    A slow server has received it, so it executes it also if the client goes away meanwhile. After
    that, uvicorn would give only the disconnect.
    """
    messages: deque[Message] = deque()
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())

    async def again() -> Message:
        return messages.popleft() if messages else await receive()

    return again


async def _swallow(message: Any) -> None:
    return


async def cut(receive: Receive, send: Send) -> None:
    """End the connection without an answer. ASGI has no word for that: uvicorn's own cycle is asked."""
    transport = send.__self__.transport  # type: ignore[attr-defined]
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
