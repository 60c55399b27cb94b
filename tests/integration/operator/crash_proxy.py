"""Stands between a program and a server, counts requests, and kills the program after one of them."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import aiohttp
import yaml
from aiohttp import web
from coding_agent_testbed.until import until_async

_NOT_PASSED_ON = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding"}


def proxy_of(kubeconfig: Path) -> CrashProxy:
    cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    return CrashProxy(cluster["server"], base64.b64decode(cluster["certificate-authority-data"]).decode())


def kind_of(request: str) -> str:
    """`PATCH /apis/…/namespaces/x/jobs/y` as `PATCH jobs/*`."""
    method, path = request.split(" ")
    _, _, rest = path.partition("/namespaces/")
    _, resource, *more = rest.split("/") if "/" in rest else ("", path)
    return f"{method} {'/'.join([resource, *('*' for _ in more[:1]), *more[1:]])}"


class CrashProxy:
    """One proxy for one process at a time; it keeps its port while it refuses connections.

    Attributes:
        requests: method and path of every request that counts since `arm`.
        died_after: the one after which the process was killed.
        deaf: watches stay open and show nothing any more.
        delay: seconds for which each piece of a watch is held back.
        held: requests that begin so (`POST /apis/batch`) are passed on only once it is empty again.
        killed: set once the process was killed.
    """

    def __init__(self, upstream: str, authority: str | None = None) -> None:
        self._upstream = upstream
        self._ssl = True if authority is None else ssl.create_default_context(cadata=authority)
        self._loop = asyncio.new_event_loop()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = asyncio.Event()
        self._pid: Callable[[], int] = lambda: 0
        self._fatal: int | str = 0
        self._since = ""
        # Bound for the proxy's whole life and never listening, so that nobody else gets the port while it
        # refuses.
        self._own_port = socket.socket()
        self._own_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._own_port.bind(("127.0.0.1", 0))
        self.port = int(self._own_port.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[str] = []
        self.died_after = ""
        self.deaf = False
        self.delay = 0.0
        self.held = ""
        self.killed = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._own_port.close()

    def arm(self, fatal: int | str, pid: Callable[[], int], *, since: str = "") -> None:
        """SIGKILL the process once its request number `fatal` was answered (0: never).

        Or the first of a kind, as `kind_of` names it.

        Args:
            since: a pattern that the first request that counts matches from its start, as `PATCH /api/…`.
        """
        self.requests = []
        self.killed.clear()
        self._fatal, self._pid, self._since = fatal, pid, since

    def disarm(self) -> None:
        self._fatal = 0

    def refuse(self) -> None:
        """Refuse connections from now on, until `accept`."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)

    def accept(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    async def _kill(self, asked: str, requests: list[str]) -> None:
        # A request that was under way when the process before was killed kills nothing.
        def is_over() -> bool:
            return requests is not self.requests or self.killed.is_set()

        # It may not be known yet who was started.
        await until_async("the program's pid is known", lambda: is_over() or self._pid(), interval=0.01)
        if not is_over():
            self.died_after = asked
            os.kill(self._pid(), signal.SIGKILL)
            self.killed.set()

    def _run(self) -> None:
        # It waits for what was cancelled too. Left over, it would be logged as an error in a later test.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)  # meant to expire
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        # A forge closes idle connections, also at the very moment of the next request.
        connector = aiohttp.TCPConnector(ssl=self._ssl, force_close=self._ssl is True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as session:
            self._session = session
            await self._listen()
            self._started.set_result(None)
            await self._stop.wait()
            await self._runner.cleanup()

    async def _listen(self) -> None:
        if self._runner.server is None:
            await self._runner.setup()
        # Both may have the port, since both say SO_REUSEADDR and one of them alone listens.
        await web.SockSite(self._runner, socket.create_server(("127.0.0.1", self.port))).start()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        requests, asked = self.requests, f"{request.method} {request.path}"
        if requests or re.match(self._since, asked):
            requests.append(asked)
        number = len(requests)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _NOT_PASSED_ON}
        data = await request.read() or None
        await until_async(
            f"{asked} is let through",
            lambda: not (self.held and asked.startswith(self.held)),
            timeout=600,
            interval=0.02,
        )
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, data=data
        ) as answer:
            watching = request.query.get("watch") == "true"
            body = b"" if watching else await answer.read()
            reached = kind_of(asked) if isinstance(self._fatal, str) else number
            if self._fatal and self._fatal == reached:
                await self._kill(asked, requests)
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _NOT_PASSED_ON}
            if not watching:
                return web.Response(status=answer.status, body=body, headers=kept)
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    await asyncio.sleep(self.delay)  # not a wait
                    if not self.deaf:
                        await response.write(chunk)
            except (aiohttp.ClientError, ConnectionError):
                pass
            return response
