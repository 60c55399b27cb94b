"""What a forge's answer means: the table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
)
from coding_agent_core.forge.pacing import forge_error, message_of, retry_after

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RESET = str(int(NOW.timestamp()) + 90)
SECONDARY = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "wait"),
    [
        pytest.param(401, {}, {"message": "Bad credentials"}, ForgeRefusedError, None, id="wrong token"),
        pytest.param(
            403,
            {"x-ratelimit-remaining": "4999", "x-ratelimit-reset": RESET},
            {"message": "Resource not accessible by personal access token"},
            ForgeRefusedError,
            None,
            id="no right, requests left",
        ),
        pytest.param(
            403,
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": RESET},
            {"message": "API rate limit exceeded for user ID 1."},
            ForgeUnavailableError,
            90,
            id="GitHub's primary limit: until the reset",
        ),
        pytest.param(403, {}, SECONDARY, ForgeUnavailableError, 60, id="secondary limit, not told how long"),
        pytest.param(
            403, {"retry-after": "17"}, SECONDARY, ForgeUnavailableError, 17, id="secondary limit, told"
        ),
        pytest.param(
            429,
            {"ratelimit-remaining": "0", "ratelimit-reset": RESET},
            None,
            ForgeUnavailableError,
            90,
            id="GitLab's reset",
        ),
        pytest.param(404, {}, {"message": "Not Found"}, ForgeNotFoundError, None, id="404"),
        pytest.param(502, {}, "<html>", ForgeUnavailableError, None, id="502 with a page of a proxy"),
        pytest.param(
            503,
            {"retry-after": format_datetime(NOW + timedelta(seconds=30))},
            None,
            ForgeUnavailableError,
            30,
            id="503, told by a date",
        ),
        pytest.param(422, {}, {"message": "Validation Failed"}, ForgeError, None, id="422"),
        pytest.param(301, {}, None, ForgeError, None, id="a redirect that is not followed"),
    ],
)
def test_translate(
    status: int, headers: dict[str, str], body: Any, kind: type[ForgeError], wait: float | None
) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = forge_error(
        status,
        headers,
        content,
        what="reading acme/pricing#7",
        host="forge.example",
        token="`github.personal_access_token`",
        now=NOW,
    )
    assert type(error) is kind
    assert ("personal_access_token" in str(error)) == (kind is ForgeRefusedError)
    assert error.status == status
    assert error.retry_after == wait
    assert "acme/pricing#7" in str(error)
    assert "forge.example" in str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": " 12 "}, 12),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": format_datetime(NOW - timedelta(hours=1))}, 0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"}, 0),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": RESET}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"[" * 100_000, ""),
        (b'{"message": "Not Found"}', "Not Found"),
        (b'{"message": null, "error": "invalid_token"}', "invalid_token"),
        (
            b'{"message": "Validation Failed", "errors": [{"message": "No commits between a and b"}, {}, 7]}',
            "Validation Failed; No commits between a and b",
        ),
        (b'{"message": {"base": ["is too long", "is wrong"]}}', "base is too long; base is wrong"),
        (b'{"message": "two\\nlines"}', "two lines"),
    ],
)
def test_message_of(body: bytes, text: str) -> None:
    assert message_of(body) == text
