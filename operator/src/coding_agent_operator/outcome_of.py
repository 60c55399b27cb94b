"""How an attempt ended, from what its Job and pods show, and whether another one can help. Pure.

The agent's own report (its termination message) comes first, if its exit code agrees with it; then what the
cluster says was done to the pod; then the exit code; then the Job's condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf

from coding_agent_core.agenttask import OutcomeType
from coding_agent_core.outcome import MAX_TAIL, Class, Outcome, last_lines, printable

from coding_agent_operator.observed import NOT_READY_TO_START, Job, Pod
from coding_agent_operator.settings import Policy

_DEADLINE = "DeadlineExceeded"
_SUCCEEDED, _FAILED = OutcomeType.SUCCEEDED, OutcomeType.FAILED
_DISRUPTED, _CANCELLED = OutcomeType.DISRUPTED, OutcomeType.CANCELLED


@dataclass(frozen=True)
class AttemptOutcome:
    """The end of an attempt and what follows.

    Attributes:
        reason: one CamelCase word.
        message: a sentence for the person who applied the label.
        retried: another attempt can help.
        counted: it counts against the task's maximum.
        report: the agent's own outcome, where it left one.
        log: the last lines of its log, where it left none.
    """

    type: OutcomeType
    reason: str
    message: str
    retried: bool
    counted: bool
    report: Outcome | None = None
    log: str = ""


EXITS: dict[int, AttemptOutcome] = {
    0: AttemptOutcome(_SUCCEEDED, "Completed", "The task is done.", False, True),
    65: AttemptOutcome(_FAILED, "CannotBeDone", "The task cannot be done as asked.", False, True),
    75: AttemptOutcome(_FAILED, "Temporary", "The model or the forge could not be reached.", True, True),
    77: AttemptOutcome(_FAILED, "ForgeRefused", "The forge refused what the agent needs to do.", False, True),
    78: AttemptOutcome(_FAILED, "Configuration", "The agent is not configured correctly.", False, True),
    143: AttemptOutcome(_DISRUPTED, "Stopped", "The attempt was stopped from outside.", True, False),
}
"""By the exit code of the agent's container (design, *Operator*), where it left no readable message."""

CRASHED = AttemptOutcome(
    _FAILED, "Crashed", "The agent ended unexpectedly with exit code {code}.", True, True
)
OUT_OF_MEMORY = AttemptOutcome(
    _FAILED, "OOMKilled", "The attempt needed more memory than it may have.", True, True
)
OUT_OF_TIME = AttemptOutcome(
    _FAILED, "DeadlineExceeded", "The attempt took longer than the task's time limit.", False, True
)
OUT_OF_STORAGE = AttemptOutcome(
    _FAILED, "Evicted", "The attempt needed more disk space than it may have.", True, True
)
NOT_PREPARED = AttemptOutcome(
    _FAILED,
    "InitFailed",
    "The attempt's pod could not be prepared: an init container of it failed.",
    True,
    True,
)
TIME_LOST = AttemptOutcome(
    _DISRUPTED,
    "JobDeadlineExceeded",
    "The attempt was interrupted or kept waiting so long that its Job's time ran out.",
    True,
    False,
)
"""An agent that had its time is ended by its own clock, or by its pod's deadline, long before its Job's."""
LOST = AttemptOutcome(
    _FAILED, "PodLost", "The attempt failed, and its pod is gone, so nobody knows why.", True, True
)

DISRUPTIONS: dict[str, AttemptOutcome] = {
    "PreemptionByScheduler": AttemptOutcome(
        _DISRUPTED, "Preempted", "A pod of higher priority took the attempt's place.", True, False
    ),
    "DeletionByTaintManager": AttemptOutcome(
        _DISRUPTED, "NodeLost", "The attempt's node was lost.", True, False
    ),
    "DeletionByPodGC": AttemptOutcome(_DISRUPTED, "NodeLost", "The attempt's node was removed.", True, False),
    "EvictionByEvictionAPI": AttemptOutcome(
        _DISRUPTED, "Evicted", "The attempt had to leave its node, which is being emptied.", True, False
    ),
    "TerminationByKubelet": AttemptOutcome(
        _DISRUPTED, "Evicted", "The attempt's node ran out of resources or was shut down.", True, False
    ),
}
"""By the reason of the pod's `DisruptionTarget` condition."""
NOT_ENDING = AttemptOutcome(_DISRUPTED, "PodNotEnding", "The attempt's pod does not end.", True, False)
_LATE_S = 60.0
"""Beyond its grace period a pod may take this long, until a person is told."""
RESTARTED = AttemptOutcome(
    _DISRUPTED, "NodeRestarted", "The attempt's node was restarted while it ran.", True, False
)
_VANISHED = ("Unknown", "ContainerStatusUnknown")
"""Of a container that was running when its node went down: containerd's `unknownExitReason`
(internal/cri/server/helpers.go), and the kubelet's where the runtime knows nothing (pkg/kubelet)."""
DISRUPTED = AttemptOutcome(_DISRUPTED, "Disrupted", "The cluster took the attempt's pod away.", True, False)

_REJECTED = (
    "OutOf",
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "NodeShutdown",
    "Terminated",
    "Preempting",
    "NodeLost",
)
"""Reasons of pods that their kubelet refused or stopped, without a `DisruptionTarget` condition."""

STOPS: dict[str, AttemptOutcome] = {
    "Cancelled": AttemptOutcome(_CANCELLED, "Cancelled", "The task was cancelled.", False, False),
    "Suspended": AttemptOutcome(_DISRUPTED, "Suspended", "The task was suspended.", True, False),
    "JobDeleted": AttemptOutcome(_DISRUPTED, "JobDeleted", "The attempt's Job was deleted.", True, False),
    "Superfluous": AttemptOutcome(_DISRUPTED, "Superfluous", "Another attempt was running.", True, False),
    "ErrImagePull": AttemptOutcome(
        _FAILED, "ErrImagePull", "The agent's image could not be pulled.", True, True
    ),
    "InvalidImage": AttemptOutcome(_FAILED, "InvalidImage", "The agent's image cannot be used.", False, True),
    "CreateContainerConfigError": AttemptOutcome(
        _FAILED, "CreateContainerConfigError", "A Secret or ConfigMap of the agent is missing.", False, True
    ),
    "CreateContainerError": AttemptOutcome(
        _FAILED, "CreateContainerError", "The agent's container could not be started.", True, True
    ),
    NOT_READY_TO_START: AttemptOutcome(
        _FAILED,
        NOT_READY_TO_START,
        "The attempt's pod could not be set up: a Secret, a ConfigMap or another volume of it is missing; "
        "the pod's events name it.",
        True,
        True,
    ),
    "Unschedulable": AttemptOutcome(
        _DISRUPTED, "Unschedulable", "No node of the cluster could take the attempt.", True, False
    ),
    "PodNotCreated": AttemptOutcome(
        _DISRUPTED,
        "PodNotCreated",
        "The cluster did not create the attempt's pod; the Job's events say why.",
        True,
        False,
    ),
}
"""By the reason for which the operator (or a person) deletes a Job that has not ended."""

ATTEMPT_OUTCOMES = (
    *(outcome for table in (EXITS, STOPS, DISRUPTIONS) for outcome in table.values()),
    *(CRASHED, OUT_OF_MEMORY, OUT_OF_TIME, OUT_OF_STORAGE, NOT_PREPARED, TIME_LOST, LOST, NOT_ENDING),
    *(RESTARTED, DISRUPTED),
)
"""All that can be said of an attempt, apart from the agent's own word."""

_WAITING = {
    "ErrImagePull": "ErrImagePull",
    "ImagePullBackOff": "ErrImagePull",
    "RegistryUnavailable": "ErrImagePull",
    "SignatureValidationFailed": "InvalidImage",
    "InvalidImageName": "InvalidImage",
    "ErrImageNeverPull": "InvalidImage",
    "CreateContainerConfigError": "CreateContainerConfigError",
    "CreateContainerError": "CreateContainerError",
    "RunContainerError": "CreateContainerError",
    "CrashLoopBackOff": "CreateContainerError",
    NOT_READY_TO_START: NOT_READY_TO_START,
}


def outcome_of(job: Job) -> AttemptOutcome:
    """How the attempt of a finished Job ended; its pods must have been looked at."""
    pod = _speaker(job)
    if pod is None:
        if job.failure == _DEADLINE:
            return TIME_LOST
        return EXITS[0] if job.complete else _with_detail(LOST, job.failure_detail)
    report = _report(pod)
    if report is not None and pod.exit_code == report.exit_code and _its_own_end(job, pod, report):
        return _reported(report)
    if job.complete:
        outcome = EXITS[0]
    elif job.failure == _DEADLINE and pod.reason != _DEADLINE:
        outcome = TIME_LOST
    else:
        outcome = _cluster_did(pod) or _exit(pod) or _prepared_badly(pod) or LOST
    # The kubelet took the end of the log where the agent wrote nothing (`FallbackToLogsOnError`).
    return replace(outcome, report=report, log="" if report else last_lines(pod.message, MAX_TAIL))


def _its_own_end(job: Job, pod: Pod, report: Outcome) -> bool:
    """The agent ended as it says, rather than because it was told to stop."""
    if report.succeeded:
        return True
    told = _DEADLINE in (job.failure, pod.reason) and report.outcome_class is Class.CANCELLED
    return not (pod.disruption or told)


def report_of(job: Job) -> Outcome | None:
    """What the agent has said of its work, whether or not the Job has ended."""
    pod = _speaker(job)
    return None if pod is None else _report(pod)


@dataclass(frozen=True)
class PodProblem:
    """What keeps an attempt's pod from beginning.

    Attributes:
        outcome: how the attempt ends if it stays so for longer than `patience`.
        patience: seconds for which it may stay so; infinite: nothing but the cluster can end it.
        over: that time has passed.
    """

    outcome: AttemptOutcome
    patience: float
    over: bool

    @property
    def at_end(self) -> bool:
        """It keeps a pod from ending, not from beginning."""
        return self.patience == inf


def pod_problem(job: Job, now: datetime, policy: Policy) -> PodProblem | None:
    """What keeps a Job that has not ended from running or from ending, or `None`.

    Its pods must have been looked at.
    """
    if job.pods is None or job.waiting:
        return None
    going = [pod for pod in job.pods if pod.phase not in ("Succeeded", "Failed")]
    current = [pod for pod in going if not pod.deleting]
    if not current:
        if job.pods or job.deleting:
            return _not_ending(going, now)
        return _problem(STOPS["PodNotCreated"], job.began, now, policy.unschedulable_after)
    pod = current[-1]
    since = pod.advanced or pod.created
    if pod.unschedulable:
        outcome = _with_detail(STOPS["Unschedulable"], pod.waiting_detail)
        return _problem(outcome, since, now, policy.unschedulable_after)
    reason = _WAITING.get(pod.waiting)
    if reason is None:
        return None
    slow = ("ErrImagePull", "CreateContainerError", NOT_READY_TO_START)
    patience = policy.image_after if reason in slow else policy.config_after
    return _problem(_with_detail(STOPS[reason], pod.waiting_detail), since, now, patience)


def _not_ending(pods: Sequence[Pod], now: datetime) -> PodProblem | None:
    """Pods that are there long after they should be gone: their node does not answer.

    They may run on, so nothing takes their place until the cluster says that they are gone.
    """
    late = [pod for pod in pods if pod.gone_by is not None and (now - pod.gone_by).total_seconds() > _LATE_S]
    if not late:
        return None
    pod, node = late[-1].name, late[-1].node or "unknown"
    words = f"Pod {pod} does not end: its node {node} does not answer. Bring the node back or remove it."
    return PodProblem(replace(NOT_ENDING, message=words), inf, over=False)


def stuck(job: Job, now: datetime, policy: Policy) -> AttemptOutcome | None:
    """Why a Job that has not ended never will, or `None`; its pods must have been looked at."""
    found = pod_problem(job, now, policy)
    return found.outcome if found is not None and found.over else None


def _problem(outcome: AttemptOutcome, since: datetime, now: datetime, patience: float) -> PodProblem:
    return PodProblem(outcome, patience, (now - since).total_seconds() > patience)


def stopped(reason: str | None, message: str | None = None) -> AttemptOutcome:
    """How an attempt ended whose Job was deleted, by the reason that was written down before."""
    outcome = STOPS.get(reason or "", STOPS["JobDeleted"])
    if message is None or reason not in STOPS:
        return outcome
    return replace(outcome, message=message)


def _speaker(job: Job) -> Pod | None:
    """The pod that decided the Job: the one that succeeded, else the newest that ended."""
    pods = job.pods or ()
    ended = [pod for pod in pods if pod.exit_code is not None or pod.phase in ("Succeeded", "Failed")]
    good = [pod for pod in ended if pod.phase == "Succeeded"]
    if job.complete and good:
        return good[-1]
    return ended[-1] if ended else None


def _report(pod: Pod) -> Outcome | None:
    return Outcome.from_termination_message(pod.message)


def _reported(report: Outcome) -> AttemptOutcome:
    reason, message = report.reason.value, printable(report.message)
    match report.outcome_class:
        case Class.SUCCEEDED:
            return AttemptOutcome(_SUCCEEDED, reason, message, False, True, report)
        case Class.TRANSIENT:
            return AttemptOutcome(_FAILED, reason, message, True, True, report)
        case Class.PERMANENT | Class.OUT_OF_BUDGET:
            return AttemptOutcome(_FAILED, reason, message, False, True, report)
        case Class.CANCELLED:
            return AttemptOutcome(_DISRUPTED, "Stopped", message, True, False, report)


def _cluster_did(pod: Pod) -> AttemptOutcome | None:
    if pod.disruption:
        return DISRUPTIONS.get(pod.disruption, DISRUPTED)
    if pod.ended == "OOMKilled":
        return OUT_OF_MEMORY
    if pod.ended in _VANISHED:
        return RESTARTED
    if pod.reason == "Evicted":
        # A kubelet that evicts for the node's sake sets DisruptionTarget; without it the pod broke its own
        # limit of ephemeral storage (pkg/kubelet/eviction/eviction_manager.go, localStorageEviction).
        return _with_detail(OUT_OF_STORAGE, pod.detail)
    if pod.reason == _DEADLINE:
        return OUT_OF_TIME
    return DISRUPTED if pod.reason.startswith(_REJECTED) else None


def _exit(pod: Pod) -> AttemptOutcome | None:
    if pod.exit_code is None:
        return None
    known = EXITS.get(pod.exit_code)
    if known is None or (known.type is _SUCCEEDED and pod.phase != "Succeeded"):
        return replace(CRASHED, message=CRASHED.message.format(code=pod.exit_code))
    return known


def _prepared_badly(pod: Pod) -> AttemptOutcome | None:
    return _with_detail(NOT_PREPARED, printable(pod.not_prepared)) if pod.not_prepared else None


def _with_detail(outcome: AttemptOutcome, detail: str) -> AttemptOutcome:
    if not detail:
        return outcome
    return replace(outcome, message=sentence(f"{outcome.message} {detail}"[:1023]))


def sentence(text: str) -> str:
    """The text with an end that another sentence can follow; the cluster's words often have none."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
