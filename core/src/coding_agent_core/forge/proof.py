"""What every proof of a webhook has: nothing is parsed before its proof is verified. Pure.

A header that is missing, malformed or not ASCII does not verify. Every valid secret is always compared, in
constant time, so that the time of an answer reveals nothing about them.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Protocol


class Verification(Protocol):
    """The check of one request, fed with its raw body as it arrives."""

    def update(self, chunk: bytes) -> None: ...

    def valid(self) -> bool: ...


def encoded(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")


def any_equal(given: bytes, valid: Iterable[bytes]) -> bool:
    """Whether one of the valid values is given."""
    # A list first: `any` over a generator stops at the first match.
    results = [hmac.compare_digest(one, given) for one in valid]
    return any(results)
