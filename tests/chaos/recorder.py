"""A proxy before a forge that is a program of its own: it records each write, and can answer in its place.

The system sends its requests to `port`, where `faults` may hit them. People send theirs to `people_url`,
where no fault hits them, and wait while the forge is away. The system then gets a 502, as from other proxies
before a forge. A request takes effect even if its client no longer waits for the answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import uvicorn
from coding_agent_testbed.forge.faults import Fault, Faults

_START_SECONDS = 30.0
_UPSTREAM_SECONDS = 90.0
"""Longer than a fault of the forge lasts."""
_PEOPLE_WAIT_SECONDS = 90.0
_RETRY_SECONDS = 0.2
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NOT_FORWARDED = {b"host", b"connection", b"transfer-encoding", b"content-length", b"keep-alive", b"expect"}
_READS = "/git-upload-pack"


@dataclass(frozen=True)
class Write:
    """A request that may have changed something, and its answer.

    Attributes:
        login: whose token it had; empty: nobody's.
        path: with `/api/v1`, without the query.
        began, ended: when it was passed on, and when the answer came.
        status: of the answer; 0: there was none, so nobody knows whether it took effect.
    """

    login: str
    method: str
    path: str
    body: bytes
    began: datetime
    ended: datetime
    status: int
    answer: bytes

    @property
    def done(self) -> bool:
        """Whether the answer says that it took effect."""
        return 200 <= self.status < 300

    @property
    def sent(self) -> dict[str, Any]:
        """The JSON of the request; empty if it is none."""
        return _json(self.body)

    @property
    def answered(self) -> dict[str, Any]:
        """The JSON of the answer; empty if it is none."""
        return _json(self.answer)


def _json(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


class Recorder:
    """Serves in a thread, for a `with` block.

    Args:
        host: where the system reaches it.
        upstream: base URL of the forge.
        public: host and port by which the system knows the forge.
        logins: by token.
    """

    def __init__(self, host: str, upstream: str, public: str, logins: Mapping[str, str]) -> None:
        self.faults: list[Fault] = []
        self.writes: list[Write] = []
        """In the order of their answers."""
        self._upstream = upstream
        self._public = public.encode()
        self._logins = logins
        self._sockets = [socket.create_server((address, 0), backlog=512) for address in (host, "127.0.0.1")]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port, people_port = (int(one.getsockname()[1]) for one in self._sockets)
        self._people_port = people_port
        self.people_url = f"http://127.0.0.1:{people_port}"
        self._faulty = Faults(self._pass_on, self.faults)
        config = uvicorn.Config(
            self._serve,
            log_level="critical",
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            date_header=False,  # the forge's own passes
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        if not self._up.wait(_START_SECONDS):
            raise RuntimeError("the proxy before the forge did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
        for one in self._sockets:
            one.close()

    async def _main(self) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx2.Timeout(_UPSTREAM_SECONDS, connect=5.0)
        async with httpx2.AsyncClient(limits=limits, timeout=timeout, trust_env=False) as self._client:
            serving = asyncio.create_task(self._server.serve(sockets=self._sockets))
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.005)
            self._up.set()
            await serving

    def _of_people(self, scope: Any) -> bool:
        return bool(scope["server"][1] == self._people_port)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await (self._pass_on if self._of_people(scope) else self._faulty)(scope, receive, send)

    async def _pass_on(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _body(receive)
        began = datetime.now(UTC)
        try:
            answer = await self._ask(scope, body)
        except httpx2.HTTPError:
            self._record(scope, body, began, 0, b"")
            await _answer(send, 502, [], b"the forge has not answered")
            return
        self._record(scope, body, began, answer.status_code, answer.content)
        headers = [
            (name, value)
            for name, value in answer.headers.raw
            if name.lower() not in _NOT_FORWARDED | {b"content-encoding"}
        ]
        await _answer(send, answer.status_code, headers, answer.content)

    async def _ask(self, scope: Any, body: bytes) -> httpx2.Response:
        query = scope["query_string"].decode("latin-1")
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _NOT_FORWARDED]
        path = scope["raw_path"].decode("latin-1")
        url = f"{self._upstream}{path}{'?' * bool(query)}{query}"
        end = time.monotonic() + _PEOPLE_WAIT_SECONDS
        while True:
            request = self._client.build_request(
                scope["method"], url, headers=[*headers, (b"host", self._public)], content=body
            )
            try:
                return await self._client.send(request)
            except httpx2.ConnectError:
                if not self._of_people(scope) or time.monotonic() > end:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    def _record(self, scope: Any, body: bytes, began: datetime, status: int, answer: bytes) -> None:
        method, path = scope["method"], scope["path"]
        if method not in _WRITES or path.endswith(_READS):
            return
        token = token_of(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))
        login, ended = self._logins.get(token, ""), datetime.now(UTC)
        self.writes.append(Write(login, method, path, body, began, ended, status, answer))


def token_of(authorization: str) -> str:
    """The token of an `Authorization` header; git sends it as a password."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return value
    with suppress(ValueError):
        return base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
    return ""


async def _body(receive: Any) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if status not in (204, 304):
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
