"""Work in the background that goes on after every error: a defect in one part does not end the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS
from coding_agent_core.runtime.retry import Clock, backoff

_T = TypeVar("_T")
_logger = logging.getLogger("coding_agent.background")
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 60.0


async def succeed(work: str, once: Callable[[], Awaitable[_T]], clock: Clock = Clock()) -> _T:  # noqa: B008 - immutable
    """Do some work, and return its result; after an error, try again soon, after at most a minute.

    An error that is not one of this project's own is a defect: it is logged with its traceback and counted.

    Args:
        work: the name of the work, for the log and the metric.
    """
    errors = BACKGROUND_ERRORS.labels(work)  # the series exists before the first error, for `increase`
    failures = 0
    while True:
        try:
            return await once()
        except Exception as error:
            failures += 1
            wait = backoff(failures, _RETRY_FIRST_S, _RETRY_MAX_S, clock.chance())
            if isinstance(error, CodingAgentError):
                _logger.warning("%s: %s; next try in %.0f s", work, error, wait)
            else:
                errors.inc()
                _logger.exception("%s: unexpected error; next try in %.0f s", work, wait)
        await clock.sleep(wait)


async def forever(work: str, once: Callable[[], Awaitable[float]], clock: Clock = Clock()) -> NoReturn:  # noqa: B008 - immutable
    """Do some work again and again until cancelled, also after errors, as `succeed` does.

    Args:
        once: does the work once, and returns the seconds until the next time.

    Example:
        group.create_task(forever("sweep", self._sweep))  # async def _sweep(self) -> float: ...; return 300.0
    """
    while True:
        await clock.sleep(await succeed(work, once, clock))
