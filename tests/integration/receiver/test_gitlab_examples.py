"""GitLab's examples of its webhooks, as its own Go client has them, into a running receiver."""

import copy
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings

from tests.fixtures.deliveries import RecordingSink, settings
from tests.fixtures.gitlab_client_go import example, folder
from tests.fixtures.receiver import receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = Settings.model_validate(
    {
        "gitlab": {"api_url": "http://example.com"},
        "rounds": {"enabled": True},
        "webhook": settings(commands={"enabled": True}).webhook.model_dump(),
    }
)
SHORTENED = {"group_merge_request"}
"""Examples that the client's authors cut: a merge request without its number."""
NAMES = sorted({file.stem for file in (folder() / "testdata" / "webhooks").glob("*.json")} - SHORTENED)
HOOKS = {"merge_request": "Merge Request Hook", "build": "Job Hook"}
LABEL = {"id": 1, "title": "coding agent", "color": "#112233", "type": "ProjectLabel"}


def hook(payload: dict[str, Any]) -> str:
    """The header `X-Gitlab-Event` of a payload."""
    kind = str(payload.get("object_kind") or payload["event_name"])
    return HOOKS.get(kind, f"{kind.replace('_', ' ').title()} Hook")


async def test_every_example_is_answered_200_and_starts_nothing() -> None:
    sink = RecordingSink()
    async with receiving(SETTINGS, sink) as receiver:
        for name in NAMES:
            payload = example(f"webhooks/{name}")
            answer = await receiver.gitlab(payload, hook(payload), name)
            assert answer.status_code == 200, (name, answer.text)
    assert len(NAMES) >= 30
    assert (sink.submitted, sink.commands) == ([], [])


async def test_an_example_that_is_changed_to_a_label_or_a_command_is_taken() -> None:
    sink = RecordingSink()
    async with receiving(SETTINGS, sink) as receiver:
        for name in ("issue", "merge_request"):
            payload = copy.deepcopy(example(f"webhooks/{name}"))
            payload["object_attributes"] |= {"action": "update", "state": "opened"}
            payload["changes"]["labels"] = {"previous": [], "current": [LABEL]}
            answer = await receiver.gitlab(payload, hook(payload), name)
            assert answer.json()["status"] == "success", answer.text
        for name in ("note_issue", "note_merge_request"):
            payload = copy.deepcopy(example(f"webhooks/{name}"))
            payload["object_attributes"] |= {"note": "/run", "action": "create"}
            answer = await receiver.gitlab(payload, hook(payload), name)
            assert answer.json()["status"] == "command", answer.text
    assert len(sink.submitted) == len(sink.commands) == 2
