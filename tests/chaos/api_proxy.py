"""A proxy in the place of the API server, which the programs' pods reach: failpoints without product code.

It speaks TLS with the API server's own certificate and passes requests on with their bearer tokens. A
failpoint does to matching requests what an API server, or the way to it, may do at any time.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

import httpx2
import uvicorn

from tests.chaos.world import Effect, Undo

Action = Literal["status", "lose", "gone", "silent", "delay", "kill"]
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CHANGES = frozenset({"PUT", "PATCH"})
_START_SECONDS = 30.0
_HOP = {b"host", b"connection", b"transfer-encoding", b"content-length", b"keep-alive", b"accept-encoding"}
_REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


@dataclass(eq=False)
class Failpoint:
    """What happens to the requests of some pods.

    Attributes:
        action: `status`: a write is refused with `status` (409: only changes of objects, which can
            conflict). `lose`: a write takes effect, and its answer is lost. `gone`: watches end with 410.
            `silent`: watches pass nothing on. `delay`: each request waits. `kill`: `on_kill` is called after
            the `count`th request has taken effect, and before it is answered, with the address of its source.
        sources: addresses of the pods; empty: all.
        share: of the matching requests.
        seconds: of `delay`.
        hits: requests and watches that it has met.
    """

    action: Action
    sources: frozenset[str] = frozenset()
    status: int = 500
    share: float = 1.0
    seconds: float = 0.0
    count: int = 1
    on_kill: Callable[[str], None] = lambda _: None
    draw: Callable[[], float] = lambda: 0.0
    hits: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def matches(self, request: _Request) -> bool:
        """Whether it applies to this request."""
        if self.sources and request.source not in self.sources:
            return False
        match self.action:
            case "status":
                chosen = request.method in (_CHANGES if self.status == 409 else _WRITES)
            case "lose":
                chosen = request.method in _WRITES
            case "gone" | "silent":
                chosen = request.watch
            case "delay":
                chosen = not request.watch
            case "kill":
                chosen = not request.watch
        return chosen and self.draw() < self.share


@dataclass(frozen=True)
class _Request:
    source: str
    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def watch(self) -> bool:
        return parse_qs(self.query).get("watch", [""])[0] in ("true", "1")


class ApiProxy:
    """Serves on `host`, on a free port, in a thread, for a `with` block.

    Args:
        upstream: URL of the API server.
        pki: folder with its certificate `apiserver.crt`, `apiserver.key` and authority `ca.crt`.
    """

    def __init__(self, host: str, upstream: str, pki: Path) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """Requests by source, method and path."""
        self._upstream = upstream
        self._authority = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._failpoints: list[Failpoint] = []
        self._socket = socket.create_server((host, 0), backlog=512)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._serve,
            log_level="critical",
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,
            ws="none",
            ssl_certfile=pki / "apiserver.crt",
            ssl_keyfile=pki / "apiserver.key",
        )
        self._server = uvicorn.Server(config)
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> ApiProxy:
        self._thread.start()
        if not self._up.wait(_START_SECONDS):
            raise RuntimeError("the proxy of the API server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(_START_SECONDS)
        self._socket.close()

    def plant(self, failpoint: Failpoint) -> Undo:
        """Let it happen until the returned function is called."""
        assert self._loop is not None
        loop = self._loop

        def on_loop(work: Callable[[], None]) -> None:
            async def do() -> None:
                work()

            asyncio.run_coroutine_threadsafe(do(), loop).result(_START_SECONDS)

        def end() -> None:
            self._failpoints.remove(failpoint)
            failpoint.ended.set()
            self._changed()

        def begin() -> None:
            self._failpoints.append(failpoint)
            self._changed()

        on_loop(begin)

        def undo() -> Effect:
            on_loop(end)
            return Effect(failpoint.hits, "requests of programs")

        return undo

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._change = asyncio.Event()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        timeout = httpx2.Timeout(60.0, connect=5.0, pool=5.0)
        async with httpx2.AsyncClient(
            verify=self._authority, limits=limits, timeout=timeout, trust_env=False
        ) as client:
            self._client = client
            serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.005)
            self._up.set()
            await serving

    def _changed(self) -> None:
        """Wake the watches: another failpoint may hold for them."""
        self._change.set()
        self._change = asyncio.Event()

    def _hit(self, request: _Request, action: Action) -> Failpoint | None:
        for failpoint in self._failpoints:
            if failpoint.action == action and failpoint.matches(request):
                failpoint.hits += 1
                return failpoint
        return None

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        request = await _read(scope, receive)
        self.requests[request.source, request.method, request.path] += 1
        work = asyncio.create_task(self._handle(request, send))
        left = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except httpx2.HTTPError:
            _abort(send)  # the API server is away: so is this one
        finally:
            for task in (work, left):
                task.cancel()
            await asyncio.gather(work, left, return_exceptions=True)

    async def _handle(self, request: _Request, send: Any) -> None:
        if (late := self._hit(request, "delay")) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(late.ended.wait(), late.seconds)
        if (refusal := self._hit(request, "status")) is not None:
            await _answer(send, refusal.status, _status(refusal.status))
            return
        if self._hit(request, "gone") is not None:
            await _answer(send, 200, {"type": "ERROR", "object": _status(410)})
            return
        assert self._client is not None
        upstream = self._client.build_request(
            request.method,
            f"{self._upstream}{request.path}{'?' * bool(request.query)}{request.query}",
            headers=[
                *((k, v) for k, v in request.headers if k.lower() not in _HOP),
                (b"accept-encoding", b"identity"),  # the proxy adds events of its own
            ],
            content=request.body,
            timeout=httpx2.Timeout(None, connect=5.0) if request.watch else httpx2.Timeout(60.0, connect=5.0),
        )
        answer = await self._client.send(upstream, stream=True)
        try:
            headers = [(k, v) for k, v in answer.headers.raw if k.lower() not in _HOP]
            if request.watch:
                await self._watch(request, send, answer, headers)
                return
            body = b"".join([part async for part in answer.aiter_raw()])
        finally:
            await answer.aclose()
        if self._kills(request) or self._hit(request, "lose") is not None:
            _abort(send)
            return
        await _send(send, answer.status_code, headers, body)

    def _kills(self, request: _Request) -> bool:
        killer = self._hit(request, "kill")
        if killer is None or killer.hits != killer.count:
            return False
        killer.on_kill(request.source)
        return True

    async def _watch(
        self, request: _Request, send: Any, answer: httpx2.Response, headers: list[tuple[bytes, bytes]]
    ) -> None:
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        events = answer.aiter_raw()
        following: asyncio.Task[bytes] | None = None
        try:
            while True:
                if (silence := self._hit(request, "silent")) is not None:
                    await silence.ended.wait()
                if self._hit(request, "gone") is not None:
                    text = json.dumps({"type": "ERROR", "object": _status(410)}).encode() + b"\n"
                    await send({"type": "http.response.body", "body": text})
                    return
                following = following or asyncio.create_task(_next(events))
                changed = asyncio.create_task(self._change.wait())
                await asyncio.wait({following, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if following.done():
                    if not (part := following.result()):
                        break
                    following = None
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})


async def _next(events: AsyncIterator[bytes]) -> bytes:
    """The next part; empty at the end."""
    return await anext(events, b"")


async def _read(scope: Any, receive: Any) -> _Request:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["raw_path"].decode("ascii")
    query = scope["query_string"].decode("ascii")
    return _Request(scope["client"][0], scope["method"], path, query, list(scope["headers"]), body)


async def _disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(send: Any) -> None:
    """End the connection without an answer: ASGI has no word for that, so uvicorn's own cycle is asked."""
    send.__self__.transport.abort()


def _status(code: int) -> dict[str, Any]:
    """The object that an API server answers a failed request with."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "The proxy of the test fails this request on purpose.",
        "reason": _REASONS[code],
        "code": code,
    }


async def _answer(send: Any, status: int, content: dict[str, Any]) -> None:
    await _send(send, status, [(b"content-type", b"application/json")], json.dumps(content).encode() + b"\n")


async def _send(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
