"""GitHub webhooks as requests, each for an issue of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from coding_agent_testbed.bench.load import Request

SECRET = "bench-webhook-secret"
_TEXT = "The total is wrong as soon as a customer orders more than the discount's pieces. " * 150
"""GitHub's events carry the issue's text and some 60 addresses: 8 to 15 KB in all."""


def labeled(number: int, port: int, secret: str = SECRET) -> Request:
    """The request for an issue that got the label `coding agent`, signed with the secret."""
    return _of_issue(number, port, secret, {"action": "labeled", "label": {"name": "coding agent"}})


def closed(number: int, port: int) -> Request:
    """The request for a labeled issue that was closed."""
    return _of_issue(number, port, SECRET, {"action": "closed"}, state="closed")


def _of_issue(
    number: int, port: int, secret: str, event: Mapping[str, Any], *, state: str = "open"
) -> Request:
    body = json.dumps(
        {
            **event,
            "issue": {
                "number": number,
                "title": "The discount is wrong",
                "html_url": f"https://github.com/octo/r{number % 20}/issues/{number}",
                "state": state,
                "labels": [{"name": "coding agent"}],
                "updated_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "body": _TEXT,
            },
            "repository": {
                "name": f"r{number % 20}",
                "full_name": f"octo/r{number % 20}",
                "owner": {"login": "octo"},
            },
            "sender": {"login": "alice"},
        }
    ).encode()
    return _request(port, body, hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())


def forged(port: int, size: int) -> Request:
    """A request with a body of so many bytes and a wrong signature."""
    return _request(port, b" " * size, "0" * 64)


def _request(port: int, body: bytes, signature: str) -> Request:
    headers = {
        "User-Agent": "GitHub-Hookshot/bench",
        "Content-Type": "application/json",
        "X-GitHub-Event": "issues",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    return Request(f"http://127.0.0.1:{port}/webhook/github", headers, body)
