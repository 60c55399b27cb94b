"""Is this request from the forge? Pure functions of bytes and headers; nothing here parses the body.

A header that is missing, malformed or not ASCII is simply not verified. Every valid secret is always
compared, in constant time, so that neither the time nor the order tells anything about them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence

_SIGNATURE = re.compile(r"sha256=([0-9a-fA-F]{64})", re.ASCII)


def github_signature(header: str | None) -> bytes | None:
    """The digest in `X-Hub-Signature-256` (`sha256=` and 64 hexadecimal digits), `None` if it has none.

    The older `X-Hub-Signature` (SHA-1) is not accepted: GitHub keeps it for old receivers only.
    """
    match = _SIGNATURE.fullmatch(header or "")
    return bytes.fromhex(match.group(1)) if match else None


def github_verified(body: bytes, header: str | None, secrets: Sequence[str]) -> bool:
    """Whether the header is the HMAC-SHA256 of the raw body with one of the secrets."""
    given = github_signature(header)
    if given is None:
        return False
    return _any(
        hmac.compare_digest(hmac.digest(_encoded(secret), body, hashlib.sha256), given)
        for secret in secrets
        if secret
    )


def gitlab_verified(header: str | None, tokens: Sequence[str]) -> bool:
    """Whether `X-Gitlab-Token` is one of the tokens.

    Args:
        header: as ASGI frameworks give it, that is decoded as Latin-1.
    """
    if not header:
        return False
    try:
        given = header.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return _any(hmac.compare_digest(_encoded(token), given) for token in tokens if token)


def _encoded(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")


def _any(results: Iterable[bool]) -> bool:
    # A list first: `any` over a generator stops at the first match.
    return any(list(results))
