"""The parts that all proofs of webhooks share. Nothing is parsed before its proof is verified. Pure.

A header that is missing, malformed or not ASCII does not verify. All valid secrets are always compared, each
in constant time, so that the time of an answer reveals nothing about them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

_SIGNATURE = re.compile(r"sha256=([0-9a-fA-F]{64})", re.ASCII)


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


class BodySignature:
    """`X-Hub-Signature-256`: the HMAC-SHA256 of the raw body with one of the secrets."""

    def __init__(self, given: bytes, secrets: Sequence[str]) -> None:
        self._given = given
        self._macs = [hmac.new(encoded(secret), digestmod=hashlib.sha256) for secret in secrets if secret]

    @staticmethod
    def of(header: str | None, secrets: Sequence[str]) -> BodySignature | None:
        """Return the check, or `None` if no body can pass it: the header is malformed, or there is no secret.

        The older `X-Hub-Signature` (SHA-1) is not accepted. Forges only send it for old receivers.
        """
        match = _SIGNATURE.fullmatch(header or "")
        return BodySignature(bytes.fromhex(match.group(1)), secrets) if match and any(secrets) else None

    def update(self, chunk: bytes) -> None:
        for mac in self._macs:
            mac.update(chunk)

    def valid(self) -> bool:
        return any_equal(self._given, (mac.digest() for mac in self._macs))
