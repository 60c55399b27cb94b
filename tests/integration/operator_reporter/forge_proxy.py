"""A proxy between a program and a forge: kills the program after a request, or refuses connections.

It keeps its port while it refuses.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

import aiohttp
from aiohttp import web

_NOT_PASSED_ON = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding"}


class ForgeProxy:
    """A proxy for one process at a time.

    Attributes:
        requests: method and path of every request that counts since `arm`.
        killed: set once the process was killed.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._started: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._fatal, self._since = 0, ""
        self._pid: Callable[[], int] = lambda: 0
        # Bound for the proxy's whole life and never listening, so that nobody else gets the port while it
        # refuses.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = int(self._held.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[str] = []
        self.killed = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._held.close()

    def arm(self, fatal: int, pid: Callable[[], int], *, since: str = "") -> None:
        """SIGKILL the process after the forge has answered request number `fatal`; 0: never.

        Args:
            since: a pattern that the first request that counts matches from its start, as `PATCH /api/…`.
        """
        self.requests = []
        self.killed.clear()
        self._fatal, self._pid, self._since = fatal, pid, since

    def disarm(self) -> None:
        """The next process lives on."""
        self._fatal = 0

    def refuse(self) -> None:
        """Refuse connections from now on, until `accept`."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)

    def accept(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def _run(self) -> None:
        # It waits for what was cancelled too. Left over, it would be logged as an error in a later test.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        timeout = aiohttp.ClientTimeout(total=30)
        # A connection of its own for each request: the forge closes idle ones, also at the very moment of the
        # next request.
        connector = aiohttp.TCPConnector(force_close=True)
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

    async def _close(self) -> None:
        await self._runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        asked = f"{request.method} {request.path}"
        if self.requests or re.match(self._since, asked):
            self.requests.append(asked)
        number, fatal = len(self.requests), self._fatal
        body = await request.read()
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _NOT_PASSED_ON}
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, data=body or None
        ) as answer:
            content = await answer.read()
            if fatal and number == fatal and not self.killed.is_set():
                self._kill()
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _NOT_PASSED_ON}
            return web.Response(status=answer.status, body=content, headers=kept)

    def _kill(self) -> None:
        os.kill(self._pid(), signal.SIGKILL)
        self.killed.set()
