"""Prints what the operator decides about a task, from JSON: for people who debug a task or the operator.

``kubectl get agenttasks,jobs,pods -o json | python -m coding_agent_operator.tasks.explain TASK``

It asks the operator's own functions, with the default settings. It takes the task's turn to have come,
because limits and budgets depend on all other tasks. Nothing is written anywhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import AgentTask

from coding_agent_operator.cluster.observed import read_job, read_pods
from coding_agent_operator.tasks.outcome_of import AttemptPolicy
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task

_JOB_OF_POD = "batch.kubernetes.io/job-name"


def explain(objects: Sequence[Mapping[str, Any]], name: str, now: datetime) -> Iterator[str]:
    """Yield lines for a person: what is stored, what the operator does about it, and the status it writes.

    Args:
        objects: AgentTasks, Jobs and pods as the API server answers them. Others are left out.
        name: the AgentTask's.

    Raises:
        LookupError: there is no such AgentTask.
        UnreadableTaskError: its spec does not fit the schema.
    """
    tasks = [AgentTask.of(one) for one in objects if one["kind"] == "AgentTask"]
    task = next((one for one in tasks if one.name == name), None)
    if task is None:
        raise LookupError(
            f"no AgentTask {name} among {', '.join(sorted(one.name for one in tasks)) or 'none'}"
        )
    pods: dict[str, list[Mapping[str, Any]]] = {}
    for one in (one for one in objects if one["kind"] == "Pod"):
        pods.setdefault((one["metadata"].get("labels") or {}).get(_JOB_OF_POD, ""), []).append(one)
    jobs = [read_job(one) for one in objects if one["kind"] == "Job"]
    own = [replace(job, pods=read_pods(pods.get(job.name, ()))) for job in jobs if job.owner == task.uid]
    settings = Settings()
    policy = AttemptPolicy.of(settings.operator.policy, settings.development)
    plan = plan_task(task, own, SchedulingDecision(start=True), now, policy)
    yield f"stored: {task.status.phase or 'no phase'}, {len(task.status.attempts)} attempts"
    for job in own:
        ended = "complete" if job.complete else job.failure or "not ended"
        shown = ", ".join(f"{pod.name} {pod.phase}" for pod in job.pods or ()) or "no pods"
        yield f"Job {job.name}: {ended}; {shown}"
    yield f"stage: {plan.stage}"
    if plan.create is not None:
        yield f"creates the Job of attempt {plan.create}"
    if plan.verify is not None:
        yield f"creates an evidence pod: {plan.verify}"
    if plan.status is not None:
        yield f"writes the status {json.dumps(plan.status.to_wire())}"
    yield from (f"Event {event.type} {event.reason}: {event.message}" for event in plan.events)
    yield from (f"deletes the Job {job.name}" for job in plan.delete)
    yield from (f"stops watching the Job {job.name}" for job in plan.release)
    if plan.requeue_at is not None:
        yield f"looks again at {plan.requeue_at.isoformat(timespec='seconds')} at the latest"


def main(arguments: Sequence[str]) -> int:
    """Explain the task that is named, from the list on standard input; 0 if that was possible."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 64
    found = json.load(sys.stdin)
    try:
        for line in explain(found.get("items", [found]), arguments[0], datetime.now(UTC)):
            print(line)
    except (LookupError, CodingAgentError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
