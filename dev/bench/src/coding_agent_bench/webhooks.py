"""Signed GitHub webhooks as bytes on the wire, each for an issue of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from datetime import UTC, datetime

SECRET = "bench-webhook-secret"
_TEXT = "The total is wrong as soon as a customer orders more than the discount's pieces. " * 100
"""GitHub's events carry the issue's text and some 60 addresses: 8 to 15 KB in all."""


def labeled(number: int, port: int) -> bytes:
    """The whole HTTP request for an issue that got the label `coding agent`."""
    body = json.dumps(
        {
            "action": "labeled",
            "label": {"name": "coding agent"},
            "issue": {
                "number": number,
                "title": "The discount is wrong",
                "html_url": f"https://github.com/octo/r{number % 20}/issues/{number}",
                "state": "open",
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
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        "POST /webhook/github HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "User-Agent: GitHub-Hookshot/bench",
        "Content-Type: application/json",
        "X-GitHub-Event: issues",
        f"X-GitHub-Delivery: {uuid.uuid4()}",
        f"X-Hub-Signature-256: sha256={signature}",
        f"Content-Length: {len(body)}",
        "",
        "",
    )
    return "\r\n".join(head).encode() + body
