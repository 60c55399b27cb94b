"""Waiting for a condition with a deadline: the only way this project waits for anything."""

import time
from collections.abc import Callable
from typing import TypeVar

from coding_agent_cluster.errors import NotReadyError
from coding_agent_cluster.transient import is_transient

T = TypeVar("T")


def until(
    what: str,
    probe: Callable[[], T | None],
    *,
    timeout: float,
    interval: float = 0.05,
    alive: Callable[[], None] = lambda: None,
    transient: tuple[type[Exception], ...] = (),
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Call ``probe`` every ``interval`` seconds until it returns something true, and return that.

    ``alive`` is called before each try and raises when going on is pointless (a process died). A probe whose
    error may pass (``is_transient``, and the types in ``transient``) is tried again.

    Raises:
        NotReadyError: ``timeout`` seconds have passed; the message carries the last error of the probe.
        Exception: the probe's own, if it cannot pass.
    """
    end = clock() + timeout
    last: Exception | None = None
    while True:
        alive()
        try:
            if result := probe():
                return result
        except Exception as error:
            if not (isinstance(error, transient) or is_transient(error)):
                raise
            last = error
        if clock() >= end:
            detail = f" (last error: {last})" if last else ""
            raise NotReadyError(f"{what}: not so after {timeout:g} s{detail}")
        pause(interval)
