"""The tokens that this process got while it runs, so that its logs and transcripts can leave them out."""

from __future__ import annotations

from collections import deque

_KEPT = 1000
"""A token of an App lives for an hour, so older ones are worthless long before they are forgotten."""
_issued: deque[str] = deque(maxlen=_KEPT)


def remember_token(token: str) -> None:
    """Remember a token that was issued to this process."""
    if token not in _issued:
        _issued.append(token)


def issued_tokens() -> tuple[str, ...]:
    """Return the newest tokens that were issued to this process, including those that were replaced."""
    return tuple(_issued)
