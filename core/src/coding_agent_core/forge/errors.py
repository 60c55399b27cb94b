"""What a forge's answer means when it is not a success: pure translation into the project's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
)

SECONDARY_LIMIT_WAIT = 60.0
"""Seconds to wait on a secondary rate limit without Retry-After (GitHub, *Rate limits for the REST API*)."""
_MESSAGE_LIMIT = 300
_RATE_LIMIT_WORDS = ("secondary rate limit", "rate limit exceeded", "abuse detection")


def translate(
    status: int, headers: Mapping[str, str], content: bytes, *, what: str, host: str, now: datetime
) -> ForgeError:
    """The error for an answer that is not a success.

    Args:
        status: HTTP status, 300 or more.
        headers: with names in lower case, or a mapping that ignores case.
        content: the body.
        what: what was asked, e.g. `reading owner/repo#7`.
        host: the forge, for the sentence.
        now: to turn dates into seconds.
    """
    message = message_of(content)
    told = f": {message}" if message else ""
    if rate_limited(status, headers, message):
        wait = retry_after(headers, now)
        if wait is None and status == 403:
            wait = SECONDARY_LIMIT_WAIT
        return ForgeUnavailableError(
            f"{host} limits our rate of requests ({status}) while {what}{told}",
            status=status,
            retry_after=wait,
        )
    if status in (401, 403):
        return ForgeRefusedError(
            f"{host} refused {what} ({status}){told}. Check the token and its rights.", status=status
        )
    if status in (404, 410):
        return ForgeNotFoundError(
            f"{host} does not have it, or the token may not see it ({status}): {what}{told}", status=status
        )
    if status in (408, 425) or status >= 500:
        return ForgeUnavailableError(
            f"{host} could not answer ({status}) while {what}{told}",
            status=status,
            retry_after=retry_after(headers, now),
        )
    if status < 400:
        return ForgeError(
            f"{host} redirects elsewhere ({status}) while {what}. Our token is not sent there; "
            "check the `api_url`.",
            status=status,
        )
    return ForgeError(f"{host} did not accept {what} ({status}){told}", status=status)


def rate_limited(status: int, headers: Mapping[str, str], message: str) -> bool:
    """Whether an answer says that we ask too often, and nothing was done.

    GitHub says so with 403 or 429 and one of: no requests remaining, Retry-After, or words in the message
    (documentation, *Rate limits for the REST API*); GitLab with 429.
    """
    if status == 429:
        return True
    if status != 403:
        return False
    words = message.lower()
    return (
        headers.get("x-ratelimit-remaining") == "0"
        or "retry-after" in headers
        or any(each in words for each in _RATE_LIMIT_WORDS)
    )


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds after which to come back, if the answer tells: Retry-After (seconds or date), or the reset."""
    value = headers.get("retry-after")
    if value is not None:
        seconds = _seconds(value, now)
        if seconds is not None:
            return seconds
    if headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining")) != "0":
        return None
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", ""))
    return max(0.0, int(reset) - now.timestamp()) if _is_number(reset) else None


def message_of(content: bytes) -> str:
    """The sentence in an error's body, cut; empty where there is none.

    GitHub: `message` and `errors[].message`; GitLab: `message` (text, list, or lists by field) or `error`.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    parts = _texts(body.get("message")) or _texts(body.get("error_description")) or _texts(body.get("error"))
    if isinstance(body.get("errors"), list):
        for each in body["errors"]:
            parts += _texts(each.get("message") if isinstance(each, dict) else each)
    return " ".join("; ".join(parts).split())[:_MESSAGE_LIMIT]


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str)]
    if isinstance(value, dict):
        return [f"{name} {text}" for name, texts in value.items() for text in _texts(texts)]
    return []


def _seconds(value: str, now: datetime) -> float | None:
    value = value.strip()
    if _is_number(value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 12
