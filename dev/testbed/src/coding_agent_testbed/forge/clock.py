"""A forge's own clock. Everything that the forge shows as a time comes from it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class Clock:
    """The machine's clock, set ahead or behind.

    Attributes:
        ahead: how far it is ahead of the machine's clock; negative: behind. May be changed at any time.
    """

    def __init__(self, ahead: timedelta = timedelta(), machine: Callable[[], datetime] = utc_now) -> None:
        self.ahead = ahead
        self._machine = machine

    def __call__(self) -> datetime:
        """The time that the forge shows."""
        return self._machine() + self.ahead


class DateHeader:
    """ASGI middleware that writes the header `Date`, which clients may compare with their own clock.

    uvicorn's own header would show the machine's clock.
    """

    def __init__(self, app: ASGIApp, now: Callable[[], datetime]) -> None:
        self.app = app
        self.now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answering(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = format_datetime(self.now(), usegmt=True).encode()
                message = {**message, "headers": [*message.get("headers", ()), (b"date", date)]}
            await send(message)

        # Faults cut connections through the server's own `send`.
        answering.__self__ = getattr(send, "__self__", None)  # type: ignore[attr-defined]
        await self.app(scope, receive, answering)
