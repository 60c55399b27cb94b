"""The issue's *Real GitHub payloads*: every example of GitHub's events, signed, into a running receiver."""

import copy
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings

from tests.fixtures.deliveries import RecordingSink, settings
from tests.fixtures.receiver import Receiver, receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUG = Settings.model_validate({"github": {"bot_label": "bug"}, "webhook": settings().webhook.model_dump()})


def replay(examples: Any) -> Any:
    """Every example of the two events, each with its own delivery id."""
    return [
        (event, f"{event}-{index}", payload)
        for event in ("issues", "pull_request")
        for index, payload in enumerate(examples[event])
    ]


async def test_exactly_the_examples_with_the_configured_label_become_tasks(
    octokit_examples: dict[str, list[dict[str, Any]]],
) -> None:
    sink = RecordingSink()
    expected, answered = [], {}
    async with receiving(BUG, sink) as receiver:
        for event, delivery, payload in replay(octokit_examples):
            response = await receiver.github(payload, event, delivery)
            assert response.status_code == 200, (delivery, response.text)
            answered[delivery] = response.json()["status"]
            if payload["action"] == "labeled" and payload["label"]["name"] == "bug":
                expected.append(delivery)
    assert len(answered) >= 58
    assert [request.trigger.delivery_id for request in sink.submitted] == expected
    assert len(expected) == 4
    assert [delivery for delivery, status in answered.items() if status == "success"] == expected


async def test_each_example_that_is_changed_to_a_label_application_becomes_a_task(
    octokit_examples: dict[str, list[dict[str, Any]]], sink: RecordingSink, receiver: Receiver
) -> None:
    examples = replay(octokit_examples)
    for event, delivery, original in examples:
        payload = copy.deepcopy(original) | {"action": "labeled", "label": {"name": "coding agent"}}
        payload["issue" if event == "issues" else "pull_request"]["state"] = "open"
        response = await receiver.github(payload, event, delivery)
        assert response.json() == {"status": "success", "task_queued": True, "task": response.json()["task"]}
    assert len(sink.submitted) == len(examples)


async def test_each_example_of_a_comment_that_is_changed_to_a_command_is_kept(
    octokit_examples: dict[str, list[dict[str, Any]]],
) -> None:
    sink = RecordingSink()
    async with receiving(settings(commands={"enabled": True}), sink) as receiver:
        examples = octokit_examples["issue_comment"]
        for index, original in enumerate(examples):
            untouched = await receiver.github(original, "issue_comment", f"u-{index}")
            assert untouched.json()["status"] == "ignored", untouched.text
            payload = copy.deepcopy(original) | {"action": "created"}
            payload["comment"] |= {"body": "/run", "id": 100 + index}
            answer = await receiver.github(payload, "issue_comment", f"c-{index}")
            assert answer.json()["status"] == "command", answer.text
    assert len(sink.commands) == len(examples) >= 4


async def test_no_event_of_github_at_all_is_answered_with_an_error(
    octokit_examples: dict[str, list[dict[str, Any]]], receiver: Receiver
) -> None:
    for event, examples in octokit_examples.items():
        for payload in examples[:2]:
            response = await receiver.github(payload, event)
            assert response.status_code == 200, (event, response.text)
