"""Webhooks about one item after another, and what came of them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from tests.fixtures.deliveries import encode, github_headers, github_issue


@dataclass(frozen=True)
class Labeling:
    """Someone labels (or unlabels) an issue on GitHub; one delivery tells of it."""

    number: int
    delivery: str
    at: datetime
    action: str = "labeled"

    async def send(self, http: httpx2.AsyncClient, port: int) -> httpx2.Response:
        payload = github_issue(
            self.action, number=self.number, updated_at=self.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        body = encode(payload)
        return await http.post(
            f"http://127.0.0.1:{port}/webhook/github",
            content=body,
            headers=github_headers(body, "issues", self.delivery),
        )


def now(seconds: float = 0) -> datetime:
    """The forge's clock, `seconds` from now."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)


def results(answers: Iterable[httpx2.Response]) -> Counter[str]:
    """How many of each status the answers have."""
    return Counter(_status(answer) for answer in answers)


def _status(answer: httpx2.Response) -> str:
    body: dict[str, Any] = answer.json()
    return str(body["status"]) if answer.status_code == 200 else f"{answer.status_code} {body}"
