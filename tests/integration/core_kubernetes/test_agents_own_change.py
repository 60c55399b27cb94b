"""A pull request that the agent opened is as trusted as the issue it answers, through a real receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tests.fixtures.deliveries import encode, github_headers, github_issue, github_pull_request
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import now
from tests.integration.core_kubernetes.place import Place


async def test_a_member_labels_the_agents_pull_request_for_a_strangers_issue(
    place: Place, start_receiver: Callable[..., Program], http: httpx.AsyncClient
) -> None:
    port = start_receiver().port()

    async def label(event: str, payload: dict[str, Any], number: int) -> bool:
        """Whether the task for an item of the public repository is trusted."""
        payload["repository"] |= {"id": 1, "private": False}
        body = encode(payload)
        answer = await http.post(
            f"http://127.0.0.1:{port}/webhook/github",
            content=body,
            headers=github_headers(body, event, f"d-{number}"),
        )
        assert answer.json()["status"] == "success", answer.text
        return bool(place.task(answer.json()["task"])["spec"].get("trusted", False))

    async def label_issue(number: int, association: str) -> bool:
        at = now().strftime("%Y-%m-%dT%H:%M:%SZ")
        payload = github_issue(number=number, author_association=association, updated_at=at)
        return await label("issues", payload, number)

    async def label_change(number: int, branch: str) -> bool:
        payload = github_pull_request(
            number=number,
            head={"ref": branch, "repo": {"id": 1}},
            user={"login": "coding-bot"},
            author_association="COLLABORATOR",
            updated_at=now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        return await label("pull_request", payload, number)

    assert not await label_issue(5, "NONE")
    assert await label_issue(6, "MEMBER")
    assert not await label_change(15, "coding-agent/issue-5")
    assert await label_change(16, "coding-agent/issue-6-r2")
    assert not await label_change(17, "coding-agent/issue-7"), "that issue has no task"
    assert await label_change(18, "feature"), "the decoy: a member's own work"
