"""Waiting for a condition with a deadline: the only way this project waits for anything."""

import time
from collections.abc import Callable
from typing import TypeVar

from coding_agent_cluster.errors import NotReadyError

T = TypeVar("T")


def until(
    what: str,
    probe: Callable[[], T | None],
    *,
    timeout: float,
    interval: float = 0.05,
    alive: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``probe`` every ``interval`` seconds until it returns something true, and return that.

    ``alive`` is called before each try and raises when going on is pointless (a process died).

    Raises:
        NotReadyError: ``timeout`` seconds have passed; the message carries the last error of the probe.
    """
    end = clock() + timeout
    last: Exception | None = None
    while True:
        alive()
        try:
            if result := probe():
                return result
        except (OSError, ValueError) as error:
            last = error
        if clock() >= end:
            detail = f" (last error: {last})" if last else ""
            raise NotReadyError(f"{what}: not so after {timeout:g} s{detail}")
        pause(interval)
