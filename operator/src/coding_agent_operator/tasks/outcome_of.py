"""Decides from a Job and its pods how an attempt ended, and whether and when another can help. Pure.

The first of these decides: the agent's own report (its termination message) if its exit code agrees with it;
what the cluster says it did to the pod; the exit code; the Job's condition.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf

from coding_agent_core.platforms.text import printable
from coding_agent_core.runtime.retry import LONGEST_ASKED_WAIT, asked_wait, backoff
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.operator import Policy
from coding_agent_core.task.agenttask import AttemptStatus, OutcomeType
from coding_agent_core.task.attempts import MAX_MESSAGE, Outcome
from coding_agent_core.task.reasons import REASONS, ExitCode, PodReason, Reason, ReasonClass

from coding_agent_operator.cluster.observed import NOT_READY_TO_START, Job, Pod

_DEADLINE = "DeadlineExceeded"
_LONGEST_DELAY_S = 900.0
"""Upper bound of a delay that nobody asks for. After an outage of hours, work goes on in this time."""


@dataclass(frozen=True)
class AttemptOutcome:
    """The end of an attempt. `REASONS` says what follows from its reason.

    Attributes:
        message: a sentence for the person who applied the label.
        report: the agent's own outcome, if it left one.
        log: the last lines of the agent's log, if it left no outcome.
        never_began: whether it is certain that the agent did not start.
    """

    reason: Reason | PodReason
    message: str
    report: Outcome | None = None
    log: str = ""
    never_began: bool = False

    @property
    def type(self) -> OutcomeType:
        return OUTCOME_TYPES[self._class]

    @property
    def retried(self) -> bool:
        """Whether another attempt can help."""
        return self._class.retried

    @property
    def counted(self) -> bool:
        """Whether the attempt counts against the task's maximum. A wait that was asked for costs none."""
        return self._class.counted and not self.asked_to_wait

    @property
    def asked_to_wait(self) -> bool:
        """Whether the model or the forge asked for a wait, so that another attempt can help after it."""
        asked = self.report.retry_after if self.report is not None else None
        return self.retried and bool(asked)

    @property
    def _class(self) -> ReasonClass:
        return REASONS[self.reason].outcome_class


def attempt_outcome(reason: Reason | PodReason, detail: str = "") -> AttemptOutcome:
    """Return the end of an attempt for a reason; `detail` is added to the reason's sentence."""
    facts = REASONS[reason]
    message = sentence(f"{facts.message} {detail}"[: MAX_MESSAGE - 1]) if detail else facts.message
    # Only reasons for which an agent does not start have a time limit.
    return AttemptOutcome(reason, message, never_began=facts.patience is not None)


OUTCOME_TYPES = {
    ReasonClass.SUCCEEDED: OutcomeType.SUCCEEDED,
    ReasonClass.TRANSIENT: OutcomeType.FAILED,
    ReasonClass.PERMANENT: OutcomeType.FAILED,
    ReasonClass.OUT_OF_BUDGET: OutcomeType.FAILED,
    ReasonClass.RESTARTED: OutcomeType.RESTARTED,
    ReasonClass.DISRUPTED: OutcomeType.DISRUPTED,
    ReasonClass.CANCELLED: OutcomeType.CANCELLED,
}

EXITS: dict[int, Reason | PodReason] = {
    ExitCode.DONE: Reason.COMPLETED,
    ExitCode.CANNOT: Reason.CANNOT_BE_DONE,
    ExitCode.TEMPORARY: PodReason.TEMPORARY,
    ExitCode.REFUSED: Reason.FORGE_REFUSED,
    ExitCode.CONFIGURATION: Reason.CONFIGURATION,
    ExitCode.CANCELLED: PodReason.STOPPED,
}
"""Reasons by the exit code of the agent's container, for when it left no readable message."""

DISRUPTIONS = {
    "PreemptionByScheduler": PodReason.PREEMPTED,
    "DeletionByTaintManager": PodReason.NODE_LOST,
    "DeletionByPodGC": PodReason.NODE_LOST,
    "EvictionByEvictionAPI": PodReason.EVICTED,
    "TerminationByKubelet": PodReason.EVICTED,
}
"""Our reasons by the reason of the pod's `DisruptionTarget` condition."""
_LATE_S = 60.0
"""A pod may take this long beyond its grace period before people are told."""
_VANISHED = ("Unknown", "ContainerStatusUnknown")
"""Reasons of a container that was running when its node went down: containerd's `unknownExitReason`
(internal/cri/server/helpers.go), and the kubelet's reason if the runtime knows nothing (pkg/kubelet)."""

_REJECTED = (
    "OutOf",
    "UnexpectedAdmissionError",
    "NodeAffinity",
    "NodeShutdown",
    "Terminated",
    "Preempting",
    "NodeLost",
)
"""Beginnings of the reasons of pods that their kubelet rejected or stopped without a `DisruptionTarget`."""

_PATIENCE = {reason: facts.patience for reason, facts in REASONS.items() if facts.patience is not None}
"""The setting that says how long a pod may fail to start, for each reason."""

STOPS: frozenset[str] = frozenset(
    {Reason.CANCELLED, PodReason.SUSPENDED, PodReason.JOB_DELETED, PodReason.SUPERFLUOUS} | _PATIENCE.keys()
)
"""The reasons for which the operator or a person deletes a Job that has not ended."""

POD_PROBLEMS = frozenset(reason.value for reason in _PATIENCE if isinstance(reason, PodReason))
"""Reasons that a task shows while the pod of its attempt cannot start."""

_WAITING = {
    "ErrImagePull": PodReason.ERR_IMAGE_PULL,
    "ImagePullBackOff": PodReason.ERR_IMAGE_PULL,
    "RegistryUnavailable": PodReason.ERR_IMAGE_PULL,
    "SignatureValidationFailed": PodReason.INVALID_IMAGE,
    "InvalidImageName": PodReason.INVALID_IMAGE,
    "ErrImageNeverPull": PodReason.INVALID_IMAGE,
    "CreateContainerConfigError": PodReason.CREATE_CONTAINER_CONFIG_ERROR,
    "CreateContainerError": PodReason.CREATE_CONTAINER_ERROR,
    "RunContainerError": PodReason.CREATE_CONTAINER_ERROR,
    "CrashLoopBackOff": PodReason.CREATE_CONTAINER_ERROR,
    NOT_READY_TO_START: PodReason.POD_NOT_READY_TO_START,
}

AT_ONCE = (PodReason.SUSPENDED, Reason.ENVIRONMENT_CHANGED)
"""Reasons after which the next attempt starts at once: they do not indicate a problem."""


def outcome_of(job: Job) -> AttemptOutcome:
    """Return how the attempt of a finished Job ended. The Job's pods must have been read."""
    pod = _deciding_pod(job)
    if pod is None:
        if job.failure == _DEADLINE:
            return attempt_outcome(PodReason.JOB_DEADLINE_EXCEEDED)
        if job.complete:
            return attempt_outcome(Reason.COMPLETED)
        # Somebody, or the garbage collector, deleted the pod before it was read.
        return attempt_outcome(PodReason.POD_LOST, job.failure_detail)
    report = pod.report
    # A report from before the end does not count if the exit code says otherwise: the agent was killed
    # later.
    if report is not None and pod.exit_code == report.exit_code and _its_own_end(job, pod, report):
        # A pod that reports "cancelled" was stopped from outside. If the task were cancelled, its spec would
        # say so.
        reason = PodReason.STOPPED if report.reason is Reason.CANCELLED else report.reason
        return replace(attempt_outcome(reason), message=report.message, report=report)
    if job.complete:
        outcome = attempt_outcome(Reason.COMPLETED)
    elif job.failure == _DEADLINE and pod.reason != _DEADLINE:
        outcome = attempt_outcome(PodReason.JOB_DEADLINE_EXCEEDED)
    else:
        outcome = _cluster_did(pod) or _exit(pod)
    never_began = not any(pod.began for pod in job.pods or ())
    return replace(outcome, report=report, log=pod.log, never_began=never_began)


def _its_own_end(job: Job, pod: Pod, report: Outcome) -> bool:
    """Whether the agent ended by itself, as its report says, and was not stopped by the cluster."""
    if report.succeeded:
        return True
    told = _DEADLINE in (job.failure, pod.reason) and report.outcome_class is ReasonClass.CANCELLED
    return not (pod.disruption or told)


def agent_report(job: Job) -> Outcome | None:
    """Return the agent's own report of its work, whether or not the Job has ended."""
    pod = _deciding_pod(job)
    return None if pod is None else pod.report


@dataclass(frozen=True)
class AttemptPolicy:
    """When an attempt is retried, and when the operator gives up on a pod. Times are in seconds.

    Attributes:
        keep_jobs: time after which a finished Job is deleted.
        backoff_base: upper bound of the first delay before another attempt; it doubles with each failure.
        backoff_max: upper bound of any delay that nobody asks for.
        asked_max: upper bound of the delay that a model or a forge asks for; up to a tenth is added.
        pod_check_interval: time between two checks of the pods of a Job that is not ready yet.
    """

    # Only these three are settings: how long a cluster takes to add a node, how often it takes one away, and
    # how long people want to read logs, differ from cluster to cluster.
    unschedulable_after: float
    max_disruptions: int
    keep_jobs: int
    backoff_base: float
    backoff_max: float
    asked_max: float
    pod_check_interval: float
    # A kubelet retries a pull with growing delays. After five minutes it has tried four or five times, and
    # an image that is missing or refused will not come.
    image_after: float = 300.0
    # The kubelet refuses such a pod for good. Two minutes are for an object that is created right after.
    config_after: float = 120.0

    @classmethod
    def of(cls, policy: Policy, development: Development) -> AttemptPolicy:
        longest = development.retry_delay_max
        return cls(
            unschedulable_after=policy.unschedulable_after,
            max_disruptions=policy.max_disruptions,
            keep_jobs=policy.keep_jobs,
            backoff_base=development.retry_delay,
            backoff_max=_LONGEST_DELAY_S if longest is None else longest,
            asked_max=LONGEST_ASKED_WAIT if longest is None else longest,
            pod_check_interval=development.pod_check_interval,
        )


@dataclass(frozen=True)
class PodProblem:
    """A problem that keeps an attempt's pod from starting, or from ending.

    Attributes:
        outcome: how the attempt ends if the problem lasts for longer than `patience`.
        patience: seconds for which the problem may last; infinite if only the cluster can end it.
        over: whether this time has passed.
    """

    outcome: AttemptOutcome
    patience: float
    over: bool

    @property
    def at_end(self) -> bool:
        """Whether the problem keeps a pod from ending and not from starting."""
        return self.patience == inf


def pod_problem(job: Job, now: datetime, policy: AttemptPolicy) -> PodProblem | None:
    """Return the problem that keeps an unfinished Job from running or from ending, or `None`.

    The Job's pods must have been read.
    """
    if job.pods is None or job.waiting:
        return None
    going = [pod for pod in job.pods if not pod.over]
    current = [pod for pod in going if not pod.deleting]
    if not current:
        if job.pods or job.deleting:
            return _not_ending(going, now)
        reason, detail, since = PodReason.POD_NOT_CREATED, "", job.began
    else:
        pod = current[-1]
        waiting = PodReason.UNSCHEDULABLE if pod.unschedulable else _WAITING.get(pod.waiting)
        if waiting is None:
            return None
        reason, detail, since = waiting, pod.waiting_detail, pod.advanced or pod.created
        if pod.missing:
            reason, detail = PodReason.SECRET_MISSING, f"Missing: {', '.join(pod.missing)}."
    patience: float = getattr(policy, _PATIENCE[reason])
    return PodProblem(attempt_outcome(reason, detail), patience, (now - since).total_seconds() > patience)


def _not_ending(pods: Sequence[Pod], now: datetime) -> PodProblem | None:
    """Return the problem of pods that exist long after they should be gone: their node does not answer.

    The pods may still run, so no other attempt starts until the cluster says that they are gone.
    """
    late = [pod for pod in pods if pod.gone_by is not None and (now - pod.gone_by).total_seconds() > _LATE_S]
    if not late:
        return None
    pod, node = late[-1].name, late[-1].node or "unknown"
    words = (
        f"Pod {pod} does not terminate: its node {node} does not answer. Bring the node back or remove it."
    )
    return PodProblem(replace(attempt_outcome(PodReason.POD_NOT_ENDING), message=words), inf, over=False)


def stuck(job: Job, now: datetime, policy: AttemptPolicy) -> AttemptOutcome | None:
    """Return why an unfinished Job will never end, or `None`. The Job's pods must have been read."""
    found = pod_problem(job, now, policy)
    return found.outcome if found is not None and found.over else None


def stopped(reason: str | None, message: str | None = None) -> AttemptOutcome:
    """Return how an attempt ended whose Job was deleted, from the reason recorded before the deletion."""
    if reason not in STOPS:
        return attempt_outcome(PodReason.JOB_DELETED)
    outcome = attempt_outcome(Reason.CANCELLED if reason == Reason.CANCELLED else PodReason(reason))
    return outcome if message is None else replace(outcome, message=message)


def _deciding_pod(job: Job) -> Pod | None:
    """Return the pod that decided the Job: the pod that succeeded, or otherwise the newest that ended."""
    pods = job.pods or ()
    ended = [pod for pod in pods if pod.exit_code is not None or pod.over]
    good = [pod for pod in ended if pod.phase == "Succeeded"]
    if job.complete and good:
        return good[-1]
    # A pod that is still running says nothing about the end of the Job.
    return ended[-1] if ended else None


def _cluster_did(pod: Pod) -> AttemptOutcome | None:
    if pod.disruption:
        return attempt_outcome(DISRUPTIONS.get(pod.disruption, PodReason.DISRUPTED))
    if pod.ended == "OOMKilled":
        return attempt_outcome(PodReason.OOM_KILLED)
    if pod.ended in _VANISHED:
        return attempt_outcome(PodReason.NODE_RESTARTED)
    if pod.reason == "Evicted":
        # A kubelet that evicts to protect the node sets DisruptionTarget. Otherwise the pod exceeded its own
        # limit of ephemeral storage (pkg/kubelet/eviction/eviction_manager.go, localStorageEviction).
        return attempt_outcome(PodReason.STORAGE_EXCEEDED, pod.detail)
    if pod.reason == _DEADLINE:
        return attempt_outcome(Reason.DEADLINE_EXCEEDED)
    return attempt_outcome(PodReason.DISRUPTED) if pod.reason.startswith(_REJECTED) else None


def _exit(pod: Pod) -> AttemptOutcome:
    if pod.exit_code is None and pod.not_prepared:
        return attempt_outcome(PodReason.INIT_FAILED, printable(pod.not_prepared))
    if pod.exit_code is None:
        return attempt_outcome(PodReason.POD_LOST)
    reason = EXITS.get(pod.exit_code)
    if reason is None or (reason is Reason.COMPLETED and pod.phase != "Succeeded"):
        return attempt_outcome(PodReason.CRASHED, f"Its exit code is {pod.exit_code}.")
    return attempt_outcome(reason)


def sentence(text: str) -> str:
    """Return the text with a period at its end if it lacks one, as messages of the cluster often do."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def delay_after(uid: str, attempts: Sequence[AttemptStatus], policy: AttemptPolicy) -> float:
    """Return the seconds between the last attempt's end and the next attempt; 0 if it showed no problem.

    Task and attempt seed the jitter, so that a restart of the operator changes nothing.
    """
    last = attempts[-1]
    if last.reason in AT_ONCE:
        return 0.0
    failures = sum(1 for attempt in attempts if attempt.reason not in AT_ONCE)
    return backoff(failures, policy.backoff_base, policy.backoff_max, _chance(uid, last))


def _chance(uid: str, last: AttemptStatus) -> float:
    return random.Random(f"{uid}/{last.number}").random()


def next_attempt_time(
    uid: str,
    attempts: Sequence[AttemptStatus],
    policy: AttemptPolicy,
    now: datetime,
    *,
    asked: float | None = None,
    stored: datetime | None = None,
) -> datetime | None:
    """Return when the next attempt may start.

    Args:
        now: the current time. No own delay is longer than `policy.backoff_max`, and none that was asked for
            longer than `policy.asked_max` and a tenth: if the result would be later, the clock was set back,
            and the attempt is due.
        asked: seconds for which the model or the forge asked to wait when the last attempt ended.
        stored: the time decided when the last attempt ended; ignored if it is impossible.
    """
    end = attempts[-1].completion_time if attempts else None
    if end is None:
        return None
    own = timedelta(seconds=policy.backoff_max)
    longest = max(own, timedelta(seconds=policy.asked_max * 1.1))
    soonest = end + timedelta(seconds=delay_after(uid, attempts, policy))
    if asked is not None:
        wait = asked_wait(asked, policy.asked_max, _chance(uid, attempts[-1]))
        soonest = max(soonest, end + timedelta(seconds=wait))
    if stored is not None and end <= stored <= end + longest:
        soonest = max(soonest, stored)
    return soonest if soonest <= now + (own if soonest <= end + own else longest) else now
