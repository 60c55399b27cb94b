"""Stands between the operator and the API server, counts its requests, and kills it after one of them."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

_PASSED_ON = ("Authorization", "Content-Type", "Accept")


def proxy_of(kubeconfig: Path) -> CrashProxy:
    """A proxy to the API server of a kubeconfig."""
    cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    return CrashProxy(cluster["server"], base64.b64decode(cluster["certificate-authority-data"]).decode())


def kind_of(request: str) -> str:
    """`PATCH /apis/…/namespaces/x/jobs/y` as `PATCH jobs/*`."""
    method, path = request.split(" ")
    _, _, rest = path.partition("/namespaces/")
    _, resource, *more = rest.split("/") if "/" in rest else ("", path)
    return f"{method} {'/'.join([resource, *('*' for _ in more[:1]), *more[1:]])}"


class CrashProxy:
    """One proxy for one operator process at a time.

    Attributes:
        requests: method and path of every request since `arm`.
        died_after: the one after which the process was killed.
        deaf: watches stay open and show nothing any more.
        delay: seconds for which each piece of a watch is held back.
        held: requests that begin so (`POST /apis/batch`) are passed on only once it is empty again.
    """

    def __init__(self, upstream: str, authority: str) -> None:
        self._upstream = upstream
        self._ssl = ssl.create_default_context(cadata=authority)
        self._loop = asyncio.new_event_loop()
        self._started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = asyncio.Event()
        self._pid: Callable[[], int] = lambda: 0
        self._fatal: int | str = 0
        self.requests: list[str] = []
        self.died_after = ""
        self.deaf = False
        self.delay = 0.0
        self.held = ""
        self.killed = threading.Event()

    def __enter__(self) -> CrashProxy:
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._started.result(60)}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    def arm(self, fatal: int | str, pid: Callable[[], int]) -> None:
        """SIGKILL the process once the API server has done its request number `fatal` (0: never).

        Or the first of a kind, as `kind_of` names it.
        """
        self.requests = []
        self.killed.clear()
        self._fatal, self._pid = fatal, pid

    def disarm(self) -> None:
        """The next process lives on."""
        self._fatal = 0

    async def _kill(self, asked: str, requests: list[str]) -> None:
        # A request that was under way when the process before was killed kills nothing.
        while requests is self.requests and not self.killed.is_set():
            if pid := self._pid():
                self.died_after = asked
                os.kill(pid, signal.SIGKILL)
                self.killed.set()
            else:  # it is not known yet who was started
                await asyncio.sleep(0.01)

    def _run(self) -> None:
        # It waits for what was cancelled too. Left over, it would be logged as an error in a later test.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(ssl=self._ssl)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as session:
            self._session = session
            self._started.set_result(runner.addresses[0][1])
            await self._stop.wait()
            await runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        requests, asked = self.requests, f"{request.method} {request.path}"
        requests.append(asked)
        number = len(requests)
        headers = {key: value for key in _PASSED_ON if (value := request.headers.get(key))}
        data = await request.read() or None
        while self.held and asked.startswith(self.held):
            await asyncio.sleep(0.02)
        async with self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, data=data
        ) as answer:
            watching = request.query.get("watch") == "true"
            body = b"" if watching else await answer.read()
            if self._fatal in (number, kind_of(asked)):
                await self._kill(asked, requests)
            kept = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
            if not watching:
                return web.Response(status=answer.status, body=body, headers=kept)
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    await asyncio.sleep(self.delay)
                    if not self.deaf:
                        await response.write(chunk)
            except (aiohttp.ClientError, ConnectionError):
                pass
            return response
