"""The retry table: each exit code and pod failure -> outcome, reason, retried or not, counted or not.

And what the task shows of it: phase, reason, sentence, attempts counted.
"""

from typing import Any

import pytest
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import ExitCode, PodReason, Reason
from coding_agent_operator.cluster.observed import Job
from coding_agent_operator.tasks.outcome_of import (
    EXITS,
    agent_report,
    attempt_outcome,
    outcome_of,
    pod_problem,
    stopped,
    stuck,
)
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task

from tests.unit.operator.making import NOW, POLICY, ago, complete, failed, job, pod, said, task

RETRIED, FINAL = True, False
COUNTED, FREE = True, False

Kind = tuple[str, bool, bool]
GOOD, PERMANENT, TRANSIENT, DISRUPTED, RESTARTED = (
    ("Succeeded", FINAL, COUNTED),
    ("Failed", FINAL, COUNTED),
    ("Failed", RETRIED, COUNTED),
    ("Disrupted", RETRIED, FREE),
    ("Restarted", RETRIED, FREE),
)

ENDED: list[tuple[str, Job, str, Kind]] = [
    ("exit 0", complete(), "Completed", GOOD),
    ("exit 65", failed(exit_code=65), "CannotBeDone", PERMANENT),
    ("exit 75", failed(exit_code=75), "Temporary", TRANSIENT),
    ("exit 77", failed(exit_code=77), "ForgeRefused", PERMANENT),
    ("exit 78", failed(exit_code=78), "Configuration", PERMANENT),
    ("exit 143", failed(exit_code=143), "Stopped", DISRUPTED),
    ("exit 1", failed(exit_code=1), "Crashed", TRANSIENT),
    ("exit 0 of a failed pod", failed(exit_code=0), "Crashed", TRANSIENT),
    ("OOMKilled", failed(exit_code=137, ended="OOMKilled"), "OOMKilled", TRANSIENT),
    ("node restarted", failed(exit_code=255, ended="Unknown"), "NodeRestarted", DISRUPTED),
    ("runtime lost it", failed(exit_code=137, ended="ContainerStatusUnknown"), "NodeRestarted", DISRUPTED),
    (
        "own disk limit",
        failed(exit_code=137, reason="Evicted", detail="Pod ephemeral local storage usage exceeds"),
        "StorageExceeded",
        TRANSIENT,
    ),
    (
        "evicted for the node's sake",
        failed(reason="Evicted", disruption="TerminationByKubelet"),
        "Evicted",
        DISRUPTED,
    ),
    ("drained", failed(exit_code=143, disruption="EvictionByEvictionAPI"), "Evicted", DISRUPTED),
    ("preempted", failed(exit_code=143, disruption="PreemptionByScheduler"), "Preempted", DISRUPTED),
    ("node lost", failed(disruption="DeletionByTaintManager"), "NodeLost", DISRUPTED),
    ("node removed", failed(disruption="DeletionByPodGC"), "NodeLost", DISRUPTED),
    ("unknown disruption", failed(disruption="NewInV2"), "Disrupted", DISRUPTED),
    ("refused by the kubelet", failed(reason="OutOfcpu"), "Disrupted", DISRUPTED),
    ("deadline of the pod", failed(reason="DeadlineExceeded"), "DeadlineExceeded", PERMANENT),
    (
        "deadline of the pod, and the agent could still say that it was stopped",
        failed(**said(Reason.CANCELLED), reason="DeadlineExceeded"),
        "DeadlineExceeded",
        PERMANENT,
    ),
    (
        "deadline of the pod, and the agent was done in its last seconds",
        failed(**{**said(Reason.COMPLETED), "phase": "Failed"}, reason="DeadlineExceeded"),
        "Completed",
        GOOD,
    ),
    (
        "deadline of the Job: its pods were disrupted or waited, for an agent's own time is shorter",
        job(failure="DeadlineExceeded", pods=(pod(exit_code=143),)),
        "JobDeadlineExceeded",
        DISRUPTED,
    ),
    (
        "deadline of the Job, and the agent was stopped by it",
        job(failure="DeadlineExceeded", pods=(pod(**said(Reason.CANCELLED)),)),
        "JobDeadlineExceeded",
        DISRUPTED,
    ),
    (
        "deadline of the Job, no pod left",
        job(failure="DeadlineExceeded", pods=()),
        "JobDeadlineExceeded",
        DISRUPTED,
    ),
    (
        "the agent's own clock, at the last moment",
        job(failure="DeadlineExceeded", pods=(pod(**said(Reason.DEADLINE_EXCEEDED)),)),
        "DeadlineExceeded",
        PERMANENT,
    ),
    ("pod gone", job(failure="BackoffLimitExceeded", pods=()), "PodLost", TRANSIENT),
    (
        "an init container failed",
        failed(exit_code=None, not_prepared="workspace-program, exit code 1: no git here"),
        "InitFailed",
        TRANSIENT,
    ),
    ("pod gone after success", job(complete=True, pods=()), "Completed", GOOD),
    ("agent: done", complete(**said(Reason.COMPLETED)), "Completed", GOOD),
    ("agent: model", failed(**said(Reason.MODEL_UNAVAILABLE)), "ModelUnavailable", TRANSIENT),
    ("agent: budget", failed(**said(Reason.LIMIT_REACHED)), "LimitReached", PERMANENT),
    ("agent: refused", failed(**said(Reason.FORGE_REFUSED)), "ForgeRefused", PERMANENT),
    ("agent: forge down", failed(**said(Reason.FORGE_DOWN)), "ForgeDown", RESTARTED),
    ("agent: stopped", failed(**said(Reason.CANCELLED)), "Stopped", DISRUPTED),
    (
        "agent: stopped by preemption",
        failed(**said(Reason.CANCELLED), disruption="PreemptionByScheduler"),
        "Preempted",
        DISRUPTED,
    ),
    (
        "agent said done, then was killed",
        failed(**{**said(Reason.COMPLETED), "exit_code": 137, "phase": "Failed", "ended": "OOMKilled"}),
        "OOMKilled",
        TRANSIENT,
    ),
    (
        "unreadable message",
        failed(exit_code=77, message='{"version": 2, "reason": "?"}'),
        "ForgeRefused",
        PERMANENT,
    ),
]


@pytest.mark.parametrize(("job", "reason", "kind"), [row[1:] for row in ENDED], ids=[row[0] for row in ENDED])
def test_a_finished_job(job: Job, reason: str, kind: Kind) -> None:
    outcome = outcome_of(job)
    assert outcome.reason == reason
    assert (outcome.type.value, outcome.retried, outcome.counted) == kind
    plan = plan_task(task(), [job], SchedulingDecision(), NOW, POLICY)
    assert plan.status is not None
    phase = Phase.SUCCEEDED if kind is GOOD else Phase.BACKOFF if outcome.retried else Phase.FAILED
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
    young = job(pods=(pod(**{"phase": "Pending", "created": ago(1), **fields}),), created=ago(1))
    assert stuck(young, NOW, POLICY) is None, "not yet"
    old = job(pods=(pod(**{"phase": "Pending", "created": ago(LONG), **fields}),), created=ago(LONG))
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
