"""The names of tasks to look at: each at most once in the queue, and never at two workers at a time."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque


class WorkQueue:
    """A queue of names with an urgent lane and a clock (monotonic seconds)."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        self._waiting: set[str] = set()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._later: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, name: str, *, urgent: bool = False) -> None:
        """Look at a task soon; an urgent one before all others."""
        if name in self._busy:
            self._again.add(name)
            return
        if name in self._waiting:
            if urgent:
                self._ready.appendleft(name)  # its older place is passed over
            return
        self._waiting.add(name)
        (self._ready.appendleft if urgent else self._ready.append)(name)
        self._wake.set()

    def add_later(self, name: str, seconds: float) -> None:
        """Look at a task after a time, or before if something happens; the soonest time counts."""
        due = asyncio.get_running_loop().time() + max(0.0, seconds)
        if name in self._due and self._due[name] <= due:
            return
        self._due[name] = due
        heapq.heappush(self._later, (due, name))
        self._wake.set()

    async def take(self) -> str:
        """The next name; call `done` with it."""
        while True:
            if self._closed:
                await asyncio.Event().wait()
            wait = self._promote()
            while self._ready:
                name = self._ready.popleft()
                if name in self._waiting:
                    self._waiting.discard(name)
                    self._busy.add(name)
                    self._idle.clear()
                    if self._ready:
                        self._wake.set()
                    return name
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def done(self, name: str) -> None:
        """The worker has finished with the name."""
        self._busy.discard(name)
        if not self._busy:
            self._idle.set()
        if name in self._again:
            self._again.discard(name)
            self.add(name)

    async def drain(self) -> None:
        """Hand out nothing any more, and wait until no worker is at work."""
        self._closed = True
        await self._idle.wait()

    def forget(self, name: str) -> None:
        """No look is due any more."""
        self._due.pop(name, None)

    def _promote(self) -> float | None:
        """Queue what is due; seconds until the next is."""
        now = asyncio.get_running_loop().time()
        while self._later:
            due, name = self._later[0]
            if self._due.get(name) != due:
                heapq.heappop(self._later)
            elif due <= now:
                heapq.heappop(self._later)
                del self._due[name]
                self.add(name)
            else:
                return due - now
        return None
