"""Stands between a receiver and the API server: forwards requests, and does to them what a test says."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.fixtures.cluster import PlaneUnderTest

Forward = Callable[[], Awaitable[web.Response]]
Rule = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]
_DROPPED = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


async def obey(_: web.Request, forward: Forward) -> web.StreamResponse:
    """Forward, and answer what was answered."""
    return await forward()


@dataclass
class ApiProxy:
    """A plain HTTP server in front of the API server."""

    plane: PlaneUnderTest
    rule: Rule = obey
    seen: list[str] = field(default_factory=list)

    async def __aenter__(self) -> ApiProxy:
        config = json.loads(self.plane.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        cluster = config["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._target = cluster["server"]
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority))
        self._client = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)  # meant to expire
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.method)
        body = await request.read()

        async def forward() -> web.Response:
            headers = {key: value for key, value in request.headers.items() if key.lower() not in _DROPPED}
            url = self._target + str(request.rel_url)
            async with self._client.request(request.method, url, data=body, headers=headers) as answer:
                kept = {key: value for key, value in answer.headers.items() if key.lower() not in _DROPPED}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        return await self.rule(request, forward)


@dataclass
class HoldAnswers:
    """The API server does what is asked; its answers to this method never come."""

    method: str
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.Request, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if request.method != self.method:
            return answer
        self.held.set()
        await asyncio.Event().wait()
        return answer


@dataclass
class Answers:
    """The next requests are answered so, by status; then all is well."""

    statuses: list[int]
    retry_after: str | None = None
    method: str | None = None
    after: bool = False
    """The API server does it nevertheless."""

    async def __call__(self, request: web.Request, forward: Forward) -> web.StreamResponse:
        if not self.statuses or self.method not in (None, request.method):
            return await forward()
        if self.after:
            await forward()
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return web.json_response({"message": "planted"}, status=self.statuses.pop(0), headers=headers)
