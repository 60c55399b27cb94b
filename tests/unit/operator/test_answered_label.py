"""A label comes while the reporter records that the ended run answers it: it gets a run, or it is answered.

The reporter removes a label only after that record. If the label had a further run nevertheless, the removal
would look like a person's, and cancel that run.
"""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.admission import answered, next_run_is_near
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.model import Origin, Submission, TaskRequest, Trigger

from tests.unit.operator.task_server import ITEM, Server

SECOND = timedelta(seconds=1)


def go_on(acting: Coroutine[Any, Any, Any], steps: int = 100) -> Any:
    """Let a program act, and return its result; `None` if it is not done after so many steps."""
    for _ in range(steps):
        try:
            acting.send(None)
        except StopIteration as end:
            return end.value
    return None


@pytest.mark.parametrize("runs", [1, 2, 3])
@pytest.mark.parametrize("step", range(16))
def test_a_label_has_a_run_or_the_ended_run_answers_it(runs: int, step: int) -> None:
    server = Server()
    sink = KubernetesSink(Access(None), "ns", Consumer(), now=lambda: server.now)
    trigger = Trigger(origin=Origin.REDELIVERY, labeled_at=server.now, received_at=server.now)
    for run in range(1, runs + 1):
        end(server, server.add(manifest(TaskRequest(item=ITEM, trigger=trigger), run=run)))
        server.now += SECOND
    trigger = Trigger(origin=Origin.REDELIVERY, labeled_at=server.now, received_at=server.now)
    submitting = sink._submit(server, TaskRequest(item=ITEM, trigger=trigger), set())  # type: ignore[arg-type]
    submitted: Submission | None = go_on(submitting, step)
    newest = max(server.tasks(), key=lambda task: task.spec.run)
    answers = newest.spec.run == runs and not next_run_is_near(newest, server.now)
    if answers:
        patch = answered(newest, server.now + SECOND, "coding-agent-bot")
        assert patch is not None
        assert go_on(server.patch(newest, patch))
    submitted = submitted or go_on(submitting)
    assert submitted
    assert (submitted.duplicate is not None) == answers
    assert len(server.tasks()) == (runs if answers else runs + 1)


def end(server: Server, task: AgentTask) -> None:
    ended = {"type": "Succeeded", "status": "True", "reason": "Completed"}
    conditions = [{**ended, "lastTransitionTime": server.now.isoformat()}]
    server.write({**server.stored[task.name], "status": {"conditions": conditions}})
