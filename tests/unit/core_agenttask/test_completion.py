"""What the operator fills in on a task that a person wrote."""

from typing import Any

import pytest
from coding_agent_core.agenttask import AgentTask, UnreadableTaskError, completion, labels_for, manifest
from coding_agent_core.tasks import Origin, TaskRequest, Trigger, item_of, parse_time

CREATED = "2026-11-25T12:00:00Z"
DEFAULTS = {"run": 2, "timeout_seconds": 60, "max_attempts": 4}


def written(**spec: Any) -> AgentTask:
    return AgentTask.of({"metadata": {"name": "fix-7", "creationTimestamp": CREATED}, "spec": spec})


def test_the_web_address_is_enough() -> None:
    url = "https://github.com/octo/demo/issues/7"
    patch = completion(written(url=url), **DEFAULTS)
    assert patch == {
        "metadata": {"labels": labels_for(item_of(url))},
        "spec": {
            "source": {
                "platform": "github",
                "host": "github.com",
                "repository": "octo/demo",
                "kind": "issue",
                "number": 7,
            },
            "trigger": {"origin": "manual", "receivedAt": CREATED},
            "run": 2,
            "timeoutSeconds": 60,
            "maxAttempts": 4,
        },
    }
    complete = written(**{"url": url, **patch["spec"]})
    assert complete.spec.item == item_of(url)
    assert complete.spec.trigger.cause is None, "who may write it needs no right on the forge"


def test_what_is_written_stays() -> None:
    task = written(url="https://gitlab.com/g/p/-/merge_requests/3", maxAttempts=1, run=9, model="m")
    patch = completion(task, **DEFAULTS)
    assert patch is not None
    assert set(patch["spec"]) == {"source", "trigger", "timeoutSeconds"}


def test_a_task_of_the_receiver_is_complete() -> None:
    received = parse_time(CREATED)
    assert received is not None
    item = item_of("https://github.com/octo/demo/issues/7")
    request = TaskRequest(item=item, trigger=Trigger(origin=Origin.WEBHOOK, received_at=received))
    body = manifest(request, run=1, timeout_seconds=60, max_attempts=3)
    body["metadata"]["creationTimestamp"] = CREATED
    assert completion(AgentTask.of(body), **DEFAULTS) is None


@pytest.mark.parametrize("url", ["", "octo/demo#7", "https://github.com/octo/demo"])
def test_without_an_item_nothing_can_be_filled_in(url: str) -> None:
    with pytest.raises(UnreadableTaskError, match=r"source|url"):
        completion(written(url=url), **DEFAULTS)
