"""The work that a stop waits for: a request that is cancelled can still take effect on the forge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class UnderWay:
    """Counts pieces of work that write, so that a stop can let them end and start no more.

    Example:
        under_way = UnderWay()
        async with under_way.one():
            await forge.upsert_comment(...)
        if await under_way.ended(20.0):
            await lease.release()
    """

    def __init__(self) -> None:
        self._count = 0
        self._stops = False
        self._cancelled = False
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Count the work of the block. After a stop it does not begin: the caller waits to be cancelled."""
        if self._stops:
            await asyncio.Event().wait()
        self._count += 1
        try:
            yield
        except asyncio.CancelledError:
            self._cancelled = True
            raise
        finally:
            self._count -= 1
            self._changed.set()

    async def ended(self, seconds: float) -> bool:
        """Start no more work, and wait until what has begun ends, at most some seconds.

        Returns:
            Whether all work has ended, and none of it ever by a cancellation.
        """
        self._stops = True
        try:
            async with asyncio.timeout(seconds):
                while self._count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return not self._cancelled
