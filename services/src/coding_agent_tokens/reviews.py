"""Asks the API server which program sends a credential, with limits that no stranger can exceed.

Whoever can connect to the service can send any number of credentials: a command in a workspace, for example.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.runtime.retry import Clock, Shared
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.rest.pacing import Bucket

from coding_agent_tokens.callers import Caller, program_of, review_request

_KEPT_S = 10.0
"""Seconds for which an answer is remembered. A ServiceAccount that is deleted has access for as long."""
_MOST_KEPT = 1000
_AT_ONCE = 8
"""Maximum number of reviews at the same time."""
_BURST, _PER_SECOND = 20, 0.5
"""Reviews for one address. A program needs one in `_KEPT_S`."""
_MOST_ADDRESSES = 1000

Review = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""Creates a TokenReview and returns the API server's answer."""


class ReviewsLimitedError(CodingAgentError):
    """The error if the API server was not asked because of a limit.

    Attributes:
        status: the HTTP status of the answer: 429 if this address asked too often, 503 if all together did.
        retry_after: seconds to wait.
    """

    def __init__(self, message: str, status: int, retry_after: float) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class _Known(NamedTuple):
    caller: Caller | None
    until: float
    """Seconds of our monotonic clock."""


class Reviews:
    """The identification of programs by the tokens of their ServiceAccounts.

    Args:
        programs: the purpose of each program, by its ServiceAccount's user name.
    """

    def __init__(self, programs: Mapping[str, Purpose], review: Review, clock: Clock) -> None:
        self._programs = programs
        self._review = review
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        """By the hash of the credential; the oldest first."""
        self._running: Shared[bytes, Caller | None] = Shared()
        self._budgets: dict[str, Bucket] = {}

    async def program(self, credential: str, address: str) -> Caller | None:
        """Return the program that a credential identifies; `None` if it identifies none of ours.

        Concurrent requests with the same credential share one review.

        Args:
            address: the address of the sender.

        Raises:
            ReviewsLimitedError: there were too many reviews.
            CodingAgentError: the API server cannot be asked.
        """
        key = hashlib.sha256(credential.encode()).digest()
        known = self._known.get(key)
        if known is not None and self._clock.monotonic() < known.until:
            return known.caller
        if key not in self._running:
            self._require_budget(address)
        return await self._running.run(key, lambda: self._ask(key, credential))

    def _require_budget(self, address: str) -> None:
        now = self._clock.monotonic()
        # Each review is a request to the API server, which serves the whole cluster.
        if len(self._running) >= _AT_ONCE:
            raise ReviewsLimitedError("The token service is finding out who other callers are.", 503, 1.0)
        budgets = self._budgets
        if address not in budgets and len(budgets) >= _MOST_ADDRESSES:
            self._budgets = budgets = {
                each: budget for each, budget in budgets.items() if not budget.is_full(now)
            }
            if len(budgets) >= _MOST_ADDRESSES:
                raise ReviewsLimitedError("The token service has too many unknown callers.", 503, 10.0)
        budget = budgets.setdefault(address, Bucket(_BURST, _PER_SECOND))
        wait = budget.wait(now)
        if wait > 0:
            raise ReviewsLimitedError(
                "This address has sent too many unknown credentials.", 429, math.ceil(wait)
            )
        budget.take(now)

    async def _ask(self, key: bytes, credential: str) -> Caller | None:
        caller = program_of(await self._review(review_request(credential)), self._programs)
        self._known[key] = _Known(caller, self._clock.monotonic() + _KEPT_S)
        self._known.move_to_end(key)
        if len(self._known) > _MOST_KEPT:
            self._known.popitem(last=False)
        return caller
