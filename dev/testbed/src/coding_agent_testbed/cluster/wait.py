"""Waiting for a condition with a deadline: the only way this project waits for anything."""

import time
from collections.abc import Callable
from typing import TypeVar

from coding_agent_testbed.cluster.errors import ClusterError, NotReadyError

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


# By name: importing the Kubernetes client alone takes longer than most waits; who asks by httpx2 brings it.
_NO_ANSWER = {"urllib3.exceptions.HTTPError", "httpx2.TransportError", "http.client.HTTPException"}
_BAD_ANSWER = {"kubernetes.client.exceptions.ApiException", "httpx2.HTTPStatusError"}
# Request Timeout, Too Many Requests.
_ASK_AGAIN = {408, 429}


def is_transient(error: Exception) -> bool:
    """Whether it is worth asking again: nobody answered, or the answer was "not now" (408, 429, 5xx).

    ``OSError`` is what sockets and files raise, ``ValueError`` what a probe says that finds half of
    something. An answer that is no, such as 403, 404 or a failed assertion, stays no.
    """
    if isinstance(error, OSError | ValueError):
        return True
    if isinstance(error, ClusterError):
        return error.is_transient
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & _NO_ANSWER) or (bool(names & _BAD_ANSWER) and _is_not_now(_status(error)))


def _status(error: Exception) -> int:
    """The HTTP status; 0 when there was no answer."""
    response = getattr(error, "response", None)
    found = getattr(error, "status", 0) if response is None else response.status_code
    return int(found or 0)


def _is_not_now(status: int) -> bool:
    return status == 0 or status in _ASK_AGAIN or status >= 500
