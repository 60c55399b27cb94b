"""Waiting for a condition with a deadline: the only way this project waits for anything."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from coding_agent_testbed.errors import TestbedError

T = TypeVar("T")

TIMEOUT_S = 120.0
"""Seconds within which anything happens on a machine that is busy with other work; it is not a promise."""
_INTERVAL_S = 0.05
_SHOWN = 2000
"""Characters of the last value that a message shows."""


class NotReadyError(TestbedError):
    """A condition did not come true before its deadline, or a process died meanwhile."""


def until(
    what: str | Callable[[], str],
    condition: Callable[[], T | None],
    *,
    timeout: float = TIMEOUT_S,
    interval: float = _INTERVAL_S,
    alive: Callable[[], object] = lambda: None,
    transient: tuple[type[Exception], ...] = (),
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> T:
    """Call a condition until it returns something true, and return that.

        url = until("the server listens", lambda: _LISTENING.search(log.read_text()), timeout=60)[1]

    The last call begins after the deadline: a machine that stood still for longer than the time that was
    left fails nothing that has come true meanwhile.

    Args:
        what: what is awaited; a function if the message is to show how things stand at the deadline.
        timeout: seconds from now to the deadline.
        interval: seconds between two calls.
        alive: called before each call of the condition; it raises when going on is pointless.
        transient: errors of the condition that may pass, in addition to those of `is_transient`.
        clock: seconds that only grow.
        pause: waits for so many seconds.

    Raises:
        NotReadyError: it was not so at the deadline. The message has what the condition last returned or
            raised.
        Exception: the condition's own, if it cannot pass.
    """
    end = clock() + timeout
    while True:
        is_last = clock() >= end
        alive()
        try:
            if result := condition():
                return result
            seen = _Seen(f"returned {result!r:.{_SHOWN}}")
        except Exception as error:
            if not _may_pass(error, transient):
                raise
            seen = _Seen(f"raised {type(error).__name__}: {error}", error)
        if is_last:
            raise _not_ready(what, timeout, seen) from seen.error
        pause(interval)


@overload
async def until_async(
    what: str | Callable[[], str],
    condition: Callable[[], Awaitable[T | None]],
    *,
    timeout: float = ...,
    interval: float = ...,
    transient: tuple[type[Exception], ...] = ...,
) -> T: ...
@overload
async def until_async(
    what: str | Callable[[], str],
    condition: Callable[[], T | None],
    *,
    timeout: float = ...,
    interval: float = ...,
    transient: tuple[type[Exception], ...] = ...,
) -> T: ...
async def until_async(
    what: str | Callable[[], str],
    condition: Callable[[], Any],
    *,
    timeout: float = TIMEOUT_S,
    interval: float = _INTERVAL_S,
    transient: tuple[type[Exception], ...] = (),
) -> Any:
    """Wait as `until` does, by the event loop's clock, while other tasks run.

    Args:
        condition: a function or a coroutine function. A call that has no result after `timeout` seconds
            is cancelled, and counts as `TimeoutError`.

    Raises:
        NotReadyError: see `until`.
        Exception: see `until`.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + timeout
    while True:
        is_last = clock() >= end
        try:
            async with asyncio.timeout(timeout):
                result = condition()
                if inspect.isawaitable(result):
                    result = await result
            if result:
                return result
            seen = _Seen(f"returned {result!r:.{_SHOWN}}")
        except Exception as error:
            if not _may_pass(error, transient):
                raise
            seen = _Seen(f"raised {type(error).__name__}: {error}", error)
        if is_last:
            raise _not_ready(what, timeout, seen) from seen.error
        await asyncio.sleep(interval)


@dataclass(frozen=True)
class _Seen:
    """What a call of the condition came to."""

    text: str
    error: Exception | None = None


def _not_ready(what: str | Callable[[], str], timeout: float, seen: _Seen) -> NotReadyError:
    awaited = what() if callable(what) else what
    return NotReadyError(f"{awaited}: not so after {timeout:g} s; the condition last {seen.text}")


def _may_pass(error: Exception, transient: tuple[type[Exception], ...]) -> bool:
    return isinstance(error, transient) or is_transient(error)


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
    own = getattr(error, "is_transient", None)  # an error that knows: those of the local cluster
    if own is not None:
        return bool(own)
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & _NO_ANSWER) or (bool(names & _BAD_ANSWER) and _is_not_now(_status(error)))


def _status(error: Exception) -> int:
    """The HTTP status; 0 when there was no answer."""
    response = getattr(error, "response", None)
    found = getattr(error, "status", 0) if response is None else response.status_code
    return int(found or 0)


def _is_not_now(status: int) -> bool:
    return status == 0 or status in _ASK_AGAIN or status >= 500
