"""What a forge's answer means: the table."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from coding_agent_core.errors import (
    ForgeConflictError,
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeRejectedError,
    ForgeUnavailableError,
)
from coding_agent_forges.rest.pacing import forge_error, message_of, retry_after

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
RESET = str(int(NOW.timestamp()) + 90)
SECONDARY = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}


REFUSED, UNAVAILABLE, GONE = ForgeRefusedError, ForgeUnavailableError, ForgeNotFoundError
REJECTED = ForgeRejectedError
LATER = format_datetime(NOW + timedelta(seconds=30))


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "wait"),
    [
        (401, {}, {"message": "Bad credentials"}, REFUSED, None),
        (403, {"x-ratelimit-remaining": "4999", "x-ratelimit-reset": RESET}, {}, REFUSED, None),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": RESET}, {}, UNAVAILABLE, 90),
        (403, {}, SECONDARY, UNAVAILABLE, 60),
        (403, {"retry-after": "17"}, SECONDARY, UNAVAILABLE, 17),
        (429, {}, None, UNAVAILABLE, None),
        (429, {"ratelimit-remaining": "0", "ratelimit-reset": RESET}, None, UNAVAILABLE, 90),  # of GitLab
        (404, {}, {"message": "Not Found"}, GONE, None),
        (410, {}, {"message": "Issues are disabled for this repo"}, GONE, None),
        (502, {}, "<html>", UNAVAILABLE, None),
        (503, {"retry-after": LATER}, None, UNAVAILABLE, 30),
        (408, {}, None, UNAVAILABLE, None),
        (422, {}, {"message": "Validation Failed"}, REJECTED, None),
        (409, {}, None, ForgeConflictError, None),
        (301, {}, None, REJECTED, None),
    ],
)  # fmt: skip
def test_what_an_answer_means(
    status: int, headers: dict[str, str], body: Any, kind: type[ForgeError], wait: float | None
) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    token = "`github.personal_access_token`"
    error = forge_error(
        status, headers, content, what="reading acme/pricing#7", host="forge.example", token=token, now=NOW
    )
    assert (type(error), error.status, error.retry_after) == (kind, status, wait)
    assert ("personal_access_token" in str(error)) == (kind is ForgeRefusedError)
    assert "acme/pricing#7" in str(error)
    assert "forge.example" in str(error)


@pytest.mark.parametrize(
    ("headers", "account", "said"),
    [
        ({}, "", "refused labeling (403). Check the token and its permissions: `github.token`."),
        (
            {"x-accepted-github-permissions": "issues=write; pull_requests=write"},
            "bot",
            "It asks for: issues=write; pull_requests=write. Check bot's token and its permissions:",
        ),
        ({"x-accepted-oauth-scopes": "repo"}, "bot", "It asks for: repo. Check bot's token"),
        ({"x-accepted-oauth-scopes": ""}, "bot", "refused labeling (403). Check bot's token"),
    ],
)
def test_a_refusal_names_the_right_and_the_account(headers: dict[str, str], account: str, said: str) -> None:
    """GitHub's answers name the permissions, or a classic token's scopes, that a request needs."""
    error = forge_error(
        403,
        headers,
        b"",
        what="labeling",
        host="github.com",
        token="`github.token`",
        now=NOW,
        account=account,
    )
    assert said in str(error)


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
        (
            b'{"message": "Validation Failed", "errors": [{"field": "name", "code": "already_exists"}]}',
            "Validation Failed; name: already exists",
        ),
        (b'{"message": {"base": ["is too long", "is wrong"]}}', "base is too long; base is wrong"),
        (b'{"message": "two\\nlines"}', "two lines"),
    ],
)
def test_message_of(body: bytes, text: str) -> None:
    assert message_of(body) == text
