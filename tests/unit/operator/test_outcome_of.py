"""The retry table: each exit code and pod failure -> outcome, reason, retried or not, counted or not.

And what the task shows of it: phase, reason, sentence, attempts counted.
"""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_core.reasons import ExitCode, PodReason, Reason
from coding_agent_core.tasks import Phase
from coding_agent_operator.observed import Job
from coding_agent_operator.outcome_of import (
    EXITS,
    agent_report,
    attempt_outcome,
    outcome_of,
    pod_problem,
    stopped,
    stuck,
)
from coding_agent_operator.task_plan import SchedulingDecision, plan_task

from tests.unit.operator.making import NOW, POLICY, ago, complete, failed, job, pod, said, task

RETRIED, FINAL = True, False
COUNTED, FREE = True, False

ENDED: list[tuple[str, Job, tuple[str, str, bool, bool]]] = [
    ("exit 0", complete(), ("Succeeded", "Completed", FINAL, COUNTED)),
    ("exit 65", failed(exit_code=65), ("Failed", "CannotBeDone", FINAL, COUNTED)),
    ("exit 75", failed(exit_code=75), ("Failed", "Temporary", RETRIED, COUNTED)),
    ("exit 77", failed(exit_code=77), ("Failed", "ForgeRefused", FINAL, COUNTED)),
    ("exit 78", failed(exit_code=78), ("Failed", "Configuration", FINAL, COUNTED)),
    ("exit 143", failed(exit_code=143), ("Disrupted", "Stopped", RETRIED, FREE)),
    ("exit 1", failed(exit_code=1), ("Failed", "Crashed", RETRIED, COUNTED)),
    ("exit 0 of a failed pod", failed(exit_code=0), ("Failed", "Crashed", RETRIED, COUNTED)),
    ("OOMKilled", failed(exit_code=137, ended="OOMKilled"), ("Failed", "OOMKilled", RETRIED, COUNTED)),
    ("node restarted", failed(exit_code=255, ended="Unknown"), ("Disrupted", "NodeRestarted", RETRIED, FREE)),
    (
        "runtime lost it",
        failed(exit_code=137, ended="ContainerStatusUnknown"),
        ("Disrupted", "NodeRestarted", RETRIED, FREE),
    ),
    (
        "own disk limit",
        failed(exit_code=137, reason="Evicted", detail="Pod ephemeral local storage usage exceeds"),
        ("Failed", "StorageExceeded", RETRIED, COUNTED),
    ),
    (
        "evicted for the node's sake",
        failed(reason="Evicted", disruption="TerminationByKubelet"),
        ("Disrupted", "Evicted", RETRIED, FREE),
    ),
    (
        "drained",
        failed(exit_code=143, disruption="EvictionByEvictionAPI"),
        ("Disrupted", "Evicted", RETRIED, FREE),
    ),
    (
        "preempted",
        failed(exit_code=143, disruption="PreemptionByScheduler"),
        ("Disrupted", "Preempted", RETRIED, FREE),
    ),
    ("node lost", failed(disruption="DeletionByTaintManager"), ("Disrupted", "NodeLost", RETRIED, FREE)),
    ("node removed", failed(disruption="DeletionByPodGC"), ("Disrupted", "NodeLost", RETRIED, FREE)),
    ("unknown disruption", failed(disruption="NewInV2"), ("Disrupted", "Disrupted", RETRIED, FREE)),
    ("refused by the kubelet", failed(reason="OutOfcpu"), ("Disrupted", "Disrupted", RETRIED, FREE)),
    (
        "deadline of the pod",
        failed(reason="DeadlineExceeded"),
        ("Failed", "DeadlineExceeded", FINAL, COUNTED),
    ),
    (
        "deadline of the pod, and the agent could still say that it was stopped",
        failed(**said(Reason.CANCELLED), reason="DeadlineExceeded"),
        ("Failed", "DeadlineExceeded", FINAL, COUNTED),
    ),
    (
        "deadline of the pod, and the agent was done in its last seconds",
        failed(**{**said(Reason.COMPLETED), "phase": "Failed"}, reason="DeadlineExceeded"),
        ("Succeeded", "Completed", FINAL, COUNTED),
    ),
    (
        "deadline of the Job: its pods were disrupted or waited, for an agent's own time is shorter",
        job(failure="DeadlineExceeded", pods=(pod(exit_code=143),)),
        ("Disrupted", "JobDeadlineExceeded", RETRIED, FREE),
    ),
    (
        "deadline of the Job, and the agent was stopped by it",
        job(failure="DeadlineExceeded", pods=(pod(**said(Reason.CANCELLED)),)),
        ("Disrupted", "JobDeadlineExceeded", RETRIED, FREE),
    ),
    (
        "deadline of the Job, no pod left",
        job(failure="DeadlineExceeded", pods=()),
        ("Disrupted", "JobDeadlineExceeded", RETRIED, FREE),
    ),
    (
        "the agent's own clock, at the last moment",
        job(failure="DeadlineExceeded", pods=(pod(**said(Reason.DEADLINE_EXCEEDED)),)),
        ("Failed", "DeadlineExceeded", FINAL, COUNTED),
    ),
    ("pod gone", job(failure="BackoffLimitExceeded", pods=()), ("Failed", "PodLost", RETRIED, COUNTED)),
    (
        "an init container failed",
        failed(exit_code=None, not_prepared="workspace-program, exit code 1: no git here"),
        ("Failed", "InitFailed", RETRIED, COUNTED),
    ),
    ("pod gone after success", job(complete=True, pods=()), ("Succeeded", "Completed", FINAL, COUNTED)),
    ("agent: done", complete(**said(Reason.COMPLETED)), ("Succeeded", "Completed", FINAL, COUNTED)),
    (
        "agent: model",
        failed(**said(Reason.MODEL_UNAVAILABLE)),
        ("Failed", "ModelUnavailable", RETRIED, COUNTED),
    ),
    ("agent: budget", failed(**said(Reason.LIMIT_REACHED)), ("Failed", "LimitReached", FINAL, COUNTED)),
    ("agent: refused", failed(**said(Reason.FORGE_REFUSED)), ("Failed", "ForgeRefused", FINAL, COUNTED)),
    ("agent: stopped", failed(**said(Reason.CANCELLED)), ("Disrupted", "Stopped", RETRIED, FREE)),
    (
        "agent: stopped by preemption",
        failed(**said(Reason.CANCELLED), disruption="PreemptionByScheduler"),
        ("Disrupted", "Preempted", RETRIED, FREE),
    ),
    (
        "agent said done, then was killed",
        failed(**{**said(Reason.COMPLETED), "exit_code": 137, "phase": "Failed", "ended": "OOMKilled"}),
        ("Failed", "OOMKilled", RETRIED, COUNTED),
    ),
    (
        "unreadable message",
        failed(exit_code=77, message='{"version": 2, "reason": "?"}'),
        ("Failed", "ForgeRefused", FINAL, COUNTED),
    ),
]


@pytest.mark.parametrize(("job", "expected"), [row[1:] for row in ENDED], ids=[row[0] for row in ENDED])
def test_a_finished_job(job: Job, expected: tuple[str, str, bool, bool]) -> None:
    outcome = outcome_of(job)
    assert (outcome.type.value, outcome.reason, outcome.retried, outcome.counted) == expected
    plan = plan_task(task(), [job], SchedulingDecision(), NOW, POLICY)
    assert plan.status is not None
    phase = (
        Phase.SUCCEEDED if expected[0] == "Succeeded" else Phase.BACKOFF if outcome.retried else Phase.FAILED
    )
    assert (plan.status.phase, plan.status.reason) == (phase, outcome.reason)
    assert (plan.status.attempt, plan.status.counted_attempts) == ("1/3", int(outcome.counted))
    told = plan.status.condition("Succeeded")
    assert told is not None
    assert told.message.startswith(outcome.message)
    assert outcome.message.endswith((".", "said by the agent", "exceeds")), "a sentence for people"


LONG = 100_000.0
STUCK: list[tuple[str, dict[str, Any], tuple[str, bool, bool] | None]] = [
    ("ErrImagePull", {"waiting": "ErrImagePull"}, ("ErrImagePull", RETRIED, COUNTED)),
    ("ImagePullBackOff", {"waiting": "ImagePullBackOff"}, ("ErrImagePull", RETRIED, COUNTED)),
    ("InvalidImageName", {"waiting": "InvalidImageName"}, ("InvalidImage", FINAL, COUNTED)),
    (
        "CreateContainerConfigError",
        {"waiting": "CreateContainerConfigError"},
        ("CreateContainerConfigError", FINAL, COUNTED),
    ),
    ("CreateContainerError", {"waiting": "RunContainerError"}, ("CreateContainerError", RETRIED, COUNTED)),
    ("Unschedulable", {"unschedulable": True}, ("Unschedulable", RETRIED, FREE)),
    ("SecretMissing", {"waiting": "PodNotReadyToStart", "missing": ("s",)}, ("SecretMissing", RETRIED, FREE)),
    ("PodNotReadyToStart", {"waiting": "PodNotReadyToStart"}, ("PodNotReadyToStart", RETRIED, COUNTED)),
    ("starting", {}, None),
    ("running", {"phase": "Running"}, None),
    ("unknown word", {"waiting": "NewInV2"}, None),
    ("unknown phase", {"phase": "Dreaming"}, None),
]


@pytest.mark.parametrize(("fields", "expected"), [row[1:] for row in STUCK], ids=[row[0] for row in STUCK])
def test_a_job_that_will_never_end(fields: dict[str, Any], expected: tuple[str, bool, bool] | None) -> None:
    young = job(pods=(pod(**({"phase": "Pending", "created": ago(1)} | fields)),), created=ago(1))
    assert stuck(young, NOW, POLICY) is None, "not yet"
    old = job(pods=(pod(**({"phase": "Pending", "created": ago(LONG)} | fields)),), created=ago(LONG))
    outcome = stuck(old, NOW, POLICY)
    found = None if outcome is None else (outcome.reason, outcome.retried, outcome.counted)
    assert found == expected
    if outcome is not None:
        assert stopped(outcome.reason, outcome.message) == outcome, "what was written down tells the rest"


@pytest.mark.parametrize("waiting", ["CreateContainerConfigError", "ErrImagePull", "PodNotReadyToStart"])
def test_patience_counts_from_the_pods_last_step_not_from_its_making(waiting: str) -> None:
    """It waited for a node for long; a Secret that is synced a moment later is not a reason to give it up."""

    def found(advanced: float) -> bool:
        slow = pod(phase="Pending", created=ago(LONG), advanced=ago(advanced), waiting=waiting)
        return stuck(job(pods=(slow,), created=ago(LONG)), NOW, POLICY) is not None

    assert (found(advanced=2), found(advanced=LONG)) == (False, True)


def test_a_pod_whose_node_does_not_answer_is_told_of_and_never_given_up() -> None:
    late = pod(name="p-1", phase="Running", node="n-7", gone_by=ago(61))
    on_time = pod(name="p-1", phase="Running", node="n-7", gone_by=ago(59))
    for lives in (job(pods=(late,)), job(pods=(late,), deleting=True)):
        found = pod_problem(lives, NOW, POLICY)
        assert found is not None
        assert found.outcome.reason == "PodNotEnding"
        assert "p-1" in found.outcome.message
        assert "n-7" in found.outcome.message
        assert found.at_end
        assert stuck(lives, NOW, POLICY) is None, "it may run: nothing takes its place"
    assert pod_problem(job(pods=(on_time,)), NOW, POLICY) is None
    assert (
        pod_problem(job(pods=(pod(phase="Running", gone_by=ago(999)), pod(phase="Running"))), NOW, POLICY)
        is None
    )
    assert pod_problem(job(pods=(), deleting=True, created=ago(LONG)), NOW, POLICY) is None


def test_a_pod_that_is_never_created() -> None:
    assert stuck(job(pods=(), created=ago(LONG)), NOW, POLICY) == attempt_outcome(PodReason.POD_NOT_CREATED)
    assert stuck(job(pods=(), created=ago(5)), NOW, POLICY) is None
    assert stuck(job(pods=None, created=ago(LONG)), NOW, POLICY) is None, "nobody has looked"


def test_what_the_agent_has_pushed_is_known_however_it_ended() -> None:
    pushed = said(Reason.CANCELLED, branch="coding-agent/7")
    outcome = outcome_of(failed(**pushed, disruption="PreemptionByScheduler"))
    assert outcome.report is not None
    assert outcome.report.branch == "coding-agent/7"
    assert agent_report(job(pods=(pod(**pushed),))) is not None
    assert agent_report(job(pods=(pod(phase="Running"),))) is None


def test_the_pod_that_succeeded_speaks_for_a_complete_job() -> None:
    """A disrupted pod was replaced by the Job itself (podFailurePolicy Ignore): one attempt, two pods."""
    first = pod(name="a", exit_code=143, disruption="PreemptionByScheduler")
    second = pod(name="b", created=ago(5), **said(Reason.COMPLETED))
    assert outcome_of(job(complete=True, pods=(first, second))).type.value == "Succeeded"


def test_every_exit_code_of_the_contract_is_in_the_table() -> None:
    assert set(EXITS) == set(ExitCode) == {0, 65, 75, 77, 78, 143}
