"""`/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

_logger = logging.getLogger("operator.http")


async def serve(
    host: str, port: int, *, alive: Callable[[], str | None], ready: Callable[[], str | None]
) -> web.AppRunner:
    """Serve until `cleanup` is called on what is returned.

    Args:
        alive: what is wrong for good, so that only a restart helps; `None` if nothing is.
        ready: why it does not work yet; `None` if it does.
    """
    app = web.Application()

    def probe(check: Callable[[], str | None]) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(text=problem or "ok", status=503 if problem else 200)

        return answer

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/livez", probe(alive))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", scrape)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    where = runner.addresses[0][:2]
    _logger.info("Probes and metrics are at %s, port %d", *where)
    return runner
