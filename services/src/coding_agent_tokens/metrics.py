"""The metrics of the token service."""

from __future__ import annotations

from enum import StrEnum
from itertools import chain

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeUnavailableError,
    SettingsError,
    TokenMissingError,
)
from coding_agent_core.runtime.metrics import CollectorRegistry, Counter
from coding_agent_forges.github.auth.app import AppProblem, AppRefusedError


class Result(StrEnum):
    """The result of a request. If GitHub refuses a token, the result may also be an `AppProblem`."""

    GIVEN = "Given"
    CALLER_UNKNOWN = "CallerUnknown"
    TOO_MANY = "TooManyReviews"
    REVIEW_FAILED = "ReviewFailed"
    MALFORMED = "Malformed"
    OTHER_REPOSITORY = "OtherRepository"
    KEY_MISSING = "KeyMissing"
    """The file with the private key is absent or empty."""
    KEY_UNREADABLE = "KeyUnreadable"
    """The file is not a private key."""
    UNAVAILABLE = "Unavailable"
    """GitHub cannot be reached, or limits the rate."""
    REFUSED = "Refused"
    """GitHub refused for a reason that is not an `AppProblem`."""


def result_of(error: CodingAgentError) -> str:
    """Return the result of a request for which the App got no token."""
    match error:
        case AppRefusedError():
            return error.problem
        case ForgeUnavailableError():
            return Result.UNAVAILABLE
        case TokenMissingError():
            return Result.KEY_MISSING
        case SettingsError():
            return Result.KEY_UNREADABLE
    return Result.REFUSED


class TokenMetrics:
    """The counter of one token service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "coding_agent_token_requests",
            "Requests to the token service by result",
            ["result"],
            registry=registry,
        )
        # `increase()` does not see a series that begins at 1.
        for result in chain(Result, AppProblem):
            self._requests.labels(result.value)

    def count(self, result: str) -> None:
        self._requests.labels(result).inc()
