"""The parts that all proofs of webhooks share. Nothing is parsed before its proof is verified. Pure.

A header that is missing, malformed or not ASCII does not verify. All valid secrets are always compared, each
in constant time, so that the time of an answer reveals nothing about them.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Protocol


class Verification(Protocol):
    """Checks one request. The caller passes the raw body as it arrives."""

    def update(self, chunk: bytes) -> None: ...

    def valid(self) -> bool: ...


def encoded(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")


def any_equal(given: bytes, valid: Iterable[bytes]) -> bool:
    """Whether the given value is one of the valid ones."""
    # The list is complete before `any`, which would stop at the first match of a generator.
    results = [hmac.compare_digest(one, given) for one in valid]
    return any(results)
