"""Kueue in place of our own limits: what its Jobs look like, and what is said of one that waits."""

from typing import Any

import pytest
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.model import Kueue
from coding_agent_core.task.model import Phase
from coding_agent_operator.cluster.observed import read_job, workload_waits_for
from coding_agent_operator.jobs.job import build_job, with_kueue_labels
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task
from coding_agent_operator.tasks.state import Stage

from tests.unit.operator.making import NOW, POLICY, ago, attempt, job, pod, status, task

WAITS: dict[str, Any] = {"suspended": True, "queue": "agents"}
RUNS: dict[str, Any] = {"queue": "agents", "started": ago(5), "ready": 1}


def test_its_jobs_are_suspended_in_the_queue_of_their_repository() -> None:
    plain = build_job(task(), 1, JobTemplate())
    kueue = Kueue.model_validate({"local_queue": "agents", "repositories": {"github.com/Octo/Demo": "demo"}})
    manifest = with_kueue_labels(plain, task(), kueue)
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "demo"
    assert manifest["spec"]["suspend"] is True
    assert "suspend" not in plain["spec"], "the native engine's Job is as it was"
    assert {**manifest["spec"], "suspend": None} == {**plain["spec"], "suspend": None}
    for container in manifest["spec"]["template"]["spec"]["containers"]:
        assert container["resources"]["requests"], "Kueue counts requests"


def test_the_queue_of_a_repository() -> None:
    kueue = Kueue.model_validate({"repositories": {"octo/demo": "a", "ghe.test/octo/demo": "b"}})
    assert kueue.of("github.com", "Octo/Demo") == "a"
    assert kueue.of("ghe.test", "octo/demo") == "b"
    assert kueue.of("github.com", "octo/other") == "coding-agent"


def test_a_job_that_waits_is_queued_and_no_attempt_has_begun() -> None:
    for_days = job(**WAITS, waits_for="Kueue: no quota", created=ago(10 * 86400), pods=())
    plan = plan_task(task(), [for_days], SchedulingDecision(), NOW, POLICY)
    assert plan.stage is Stage.ACTIVE, "it holds its item's place"
    assert plan.status is not None
    assert (plan.status.phase, plan.status.reason) == (Phase.QUEUED, "WaitingForKueue")
    assert (plan.status.attempts, plan.status.attempt) == ((), "0/3")
    succeeded, running, _ = plan.status.conditions
    assert (succeeded.status, succeeded.message) == ("Unknown", "Kueue: no quota")
    assert (running.status, running.reason) == ("False", "JobSuspended")
    assert (plan.create, plan.delete, plan.requeue_at) == (None, (), None)


def test_the_attempt_begins_when_it_is_admitted() -> None:
    plan = plan_task(task(), [job(**RUNS, created=ago(5000))], SchedulingDecision(), NOW, POLICY)
    assert plan.status is not None
    assert plan.status.phase is Phase.RUNNING
    assert [a.start_time for a in plan.status.attempts] == [ago(5)]
    just = job(queue="agents", created=ago(5000))
    plan = plan_task(task(), [just], SchedulingDecision(), NOW, POLICY)
    assert plan.status is not None
    assert plan.status.attempts == (), "admitted, and not started yet"


def test_a_preempted_attempt_is_the_same_attempt_and_begins_anew() -> None:
    begun = status(attempt(1), phase=Phase.RUNNING)
    preempted = plan_task(task(begun), [job(**WAITS)], SchedulingDecision(), NOW, POLICY)
    assert preempted.status is not None
    assert (preempted.status.phase, preempted.status.reason) == (Phase.QUEUED, "WaitingForKueue")
    assert [(a.number, a.outcome) for a in preempted.status.attempts] == [(1, None)]
    assert [n.reason for n in preempted.events] == ["Preempted"]
    resumed = plan_task(task(preempted.status), [job(**RUNS)], SchedulingDecision(), NOW, POLICY)
    assert resumed.status is not None
    assert [(a.number, a.start_time) for a in resumed.status.attempts] == [(1, ago(5))]
    pods = (pod(phase="Succeeded", exit_code=0),)
    ended = job(**{**RUNS, "ready": 0}, complete=True, pods=pods)
    last = plan_task(task(resumed.status), [ended], SchedulingDecision(), NOW, POLICY)
    assert last.status is not None
    assert (last.status.phase, last.status.attempt) == (Phase.SUCCEEDED, "1/3")


@pytest.mark.parametrize(("field", "stage"), [("cancel", Stage.ENDED), ("suspend", Stage.SUSPENDED)])
def test_a_waiting_job_goes_with_the_persons_wish(field: str, stage: Stage) -> None:
    spec: dict[str, Any] = {field: True}
    asked = task(**spec)
    waiting = job(**WAITS)
    plan = plan_task(asked, [waiting], SchedulingDecision(), NOW, POLICY)
    assert plan.delete == (waiting,)
    over = plan_task(asked, [], SchedulingDecision(), NOW, POLICY)
    assert over.stage is stage
    assert over.status is not None
    assert over.status.attempts == (), "it never ran"


def test_it_is_read_from_the_job() -> None:
    body: dict[str, Any] = {
        "metadata": {
            "name": "j",
            "uid": "u",
            "resourceVersion": "1",
            "labels": {"kueue.x-k8s.io/queue-name": "agents"},
        },
        "spec": {"suspend": True},
    }
    found = read_job(body)
    assert (found.queue, found.waiting) == ("agents", True)
    body["spec"]["suspend"] = False
    assert read_job(body).waiting, "admitted, not started yet"
    body["status"] = {"startTime": NOW.isoformat()}
    assert (read_job(body).waiting, read_job(body).began) == (False, NOW)


def condition(kind: str, value: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": value, "message": message, "reason": "R"}


WORDS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"status": {"conditions": [condition("QuotaReserved", "False", "no cpu")]}}, "Kueue: no cpu"),
    ({"status": {"conditions": [condition("QuotaReserved", "False")]}}, "Kueue: R"),
    (
        {"status": {"conditions": [condition("QuotaReserved", "True")]}},
        "Kueue has reserved quota and waits for its admission checks.",
    ),
    ({"status": {"conditions": [condition("QuotaReserved", "True"), condition("Admitted", "True")]}}, None),
    ({"spec": {"active": False}}, "Kueue has deactivated the attempt's workload."),
]


@pytest.mark.parametrize(("workload", "words"), WORDS)
def test_kueues_own_words(workload: dict[str, Any], words: str | None) -> None:
    assert workload_waits_for(workload) == words


def test_a_job_that_a_person_suspended_is_not_shown_as_running() -> None:
    plan = plan_task(task(), [job(suspended=True)], SchedulingDecision(), NOW, POLICY)
    assert plan.status is not None
    assert (plan.status.phase, plan.status.reason) == (Phase.QUEUED, "JobSuspended")
