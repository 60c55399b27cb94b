"""Waiting for a condition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coding_agent_testbed.bench.errors import BenchError

T = TypeVar("T")


async def until(
    what: str, condition: Callable[[], Awaitable[T | None]], *, seconds: float, interval: float = 0.05
) -> T:
    """The condition's value as soon as it is true.

    Args:
        interval: seconds between two checks.

    Raises:
        BenchError: it was not so after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        if value := await condition():
            return value
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not so after {seconds:.0f} s")
        await asyncio.sleep(interval)
