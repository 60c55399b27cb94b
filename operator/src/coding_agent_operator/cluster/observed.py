"""Jobs and pods as the operator reads them, as plain data, and the names of what it creates. Pure.

The readers accept whatever is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coding_agent_core.platforms.addresses import MAX_PLACE
from coding_agent_core.platforms.text import last_lines
from coding_agent_core.task.agenttask import (
    ANNOTATION_ALLOWANCE,
    ANNOTATION_TRANSCRIPT,
    ANNOTATION_TRANSCRIPT_URL,
    LABEL_ACTIVE,
    LABEL_DEFAULTED,
    LABEL_ITEM,
    LABEL_REPOSITORY,
    LABEL_VERIFY,
)
from coding_agent_core.task.attempts import MAX_TAIL, Outcome
from coding_agent_core.task.model import parse_time
from coding_agent_core.task.objects import Metadata, controller_of, time_of
from coding_agent_core.task.usage import Allowance
from coding_agent_core.task.verification import Side, VerifyResult
from pydantic import ValidationError

MANAGER = "coding-agent-operator"
"""The field manager of the operator's writes and the source of its Events."""
DEFAULTED, NOT_DEFAULTED = f"{LABEL_DEFAULTED}=true", f"{LABEL_DEFAULTED}!=true"
"""Label selectors of the tasks that the operator can work on, and of tasks that it must complete first."""
ACTIVE = f"{LABEL_ACTIVE}=true"
"""Selects the Jobs whose end is not recorded."""
ATTEMPT = "attempt"
"""The value of the component label of an attempt's Job and pod."""
EVIDENCE = "evidence"
"""The same for an evidence pod, which has a NetworkPolicy of its own."""
TASK_PODS = f"app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/component in ({ATTEMPT},{EVIDENCE})"
"""Selects the pods of attempts and evidence pods."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's label that names a Job's LocalQueue."""
WORKLOADS = ("kueue.x-k8s.io", "v1beta2", "workloads")
"""Group, version and plural of the Workloads that Kueue creates for Jobs."""
_WORKLOAD_JOB_LABEL = "kueue.x-k8s.io/job-uid"
KUEUE_NOT_INSTALLED = (
    "Kueue is not installed in this cluster, so nobody admits the attempt's Job. Install it, or set "
    "`queue.engine` to `native`."
)
_LENGTH = 63
"""The length of an RFC 1123 label, because a Job's name becomes a label value of its pods."""
JOB_UID_LABEL, JOB_NAME_LABEL = "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"
"""The labels that the Job controller gives a pod."""
AGENT_CONTAINER = "agent"
WORKSPACE_CONTAINER = "workspace"
VERIFY_CONTAINER = "verify"
"""The container of an evidence pod that lets the workspace run the commands, and reports."""
CLONE_CONTAINER = "clone"
"""The init container of an evidence pod that has the forge's credential."""
NOT_READY_TO_START = "PodNotReadyToStart"
"""Our reason for a pod on a node whose volumes or network are not set up: no container status says so."""


@dataclass(frozen=True)
class Pod:
    """A pod of an attempt, or an evidence pod. Its fields describe mainly the agent's container.

    Attributes:
        disruption: the reason of the `DisruptionTarget` condition
            (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
        exit_code: the exit code of the agent's container, once it ended.
        ended: why the container ended, as the kubelet says (`OOMKilled`, `Error`, `Completed`).
        report: the agent's report, which it left as the container's termination message.
        verified: the evidence pod's report, from its termination message.
        log: the last lines of the agent's log, which the kubelet provides if the agent left no readable
            report (`FallbackToLogsOnError`).
        waiting: why a container waits (`ErrImagePull`, `CreateContainerConfigError`, …).
        waiting_detail: the kubelet's message about that, or the scheduler's if the pod is `unschedulable`.
        not_prepared: which init container failed, and its message, if the agent never started.
        advanced: when the pod's start last made progress (it was scheduled, set up, prepared), or when it
            was first found unschedulable.
        gone_by: when the pod should be gone at the latest, once it is being deleted.
        missing: the names of Secrets that the pod waits for.
        node: the name of the pod's node.
        job_uid, job_name: the uid and name of the pod's Job.
        item, repository: hashes of the item's and the repository's identity, as in the pod's labels.
        allowance: how much the attempt may spend; `None` if there is no limit.
        began: whether the agent's container may have started; `True` if it is not certain.
        started: whether the agent's container has certainly started.
    """

    name: str
    phase: str
    created: datetime
    uid: str = ""
    reason: str = ""
    detail: str = ""
    disruption: str = ""
    exit_code: int | None = None
    ended: str = ""
    report: Outcome | None = None
    verified: VerifyResult | None = None
    log: str = ""
    waiting: str = ""
    waiting_detail: str = ""
    unschedulable: bool = False
    not_prepared: str = ""
    advanced: datetime | None = None
    gone_by: datetime | None = None
    missing: tuple[str, ...] = ()
    node: str = ""
    job_uid: str = ""
    job_name: str = ""
    item: str = ""
    repository: str = ""
    allowance: Allowance | None = None
    began: bool = True
    started: bool = False

    @property
    def over(self) -> bool:
        """Whether all containers of the pod have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def deleting(self) -> bool:
        """Whether the pod is being deleted. It may run until it is gone."""
        return self.gone_by is not None


def read_pods(bodies: Iterable[Mapping[str, Any]]) -> tuple[Pod, ...]:
    """Read pods; the oldest is first."""
    return tuple(sorted((read_pod(body) for body in bodies), key=lambda pod: (pod.created, pod.name)))


def read_pod(body: Mapping[str, Any]) -> Pod:
    meta, status = Metadata.of(body), body.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    disruption, scheduled = conditions.get("DisruptionTarget") or {}, conditions.get("PodScheduled") or {}
    containers = list(status.get("containerStatuses") or ())
    agent = next(
        (c for c in containers if c.get("name") == AGENT_CONTAINER), containers[0] if containers else {}
    )
    ended = (agent.get("state") or {}).get("terminated") or {}
    # Once the agent runs, its sidecar may start again, which does not mean that the pod is lost.
    began = "running" in (agent.get("state") or {}) or bool(ended)
    others = () if began else status.get("initContainerStatuses") or ()
    waits = [
        waiting
        for c in [*others, *containers]
        if (waiting := (c.get("state") or {}).get("waiting"))
        and waiting.get("reason") not in ("PodInitializing", "ContainerCreating")
    ]
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    waiting = waits[0] if waits else {"message": scheduled.get("message")} if unschedulable else {}
    ready = conditions.get("PodReadyToStartContainers") or {}
    if not (waiting or began) and ready.get("status") == "False" and scheduled.get("status") == "True":
        waiting = {"reason": NOT_READY_TO_START}
    return Pod(
        name=meta.name,
        uid=meta.uid,
        phase=status.get("phase") or "Pending",
        created=meta.created,
        reason=status.get("reason") or "",
        detail=status.get("message") or "",
        disruption=(disruption.get("reason") or "Disrupted") if disruption.get("status") == "True" else "",
        exit_code=ended.get("exitCode"),
        ended=ended.get("reason") or "",
        **left_in(ended.get("message") or "", evidence=LABEL_VERIFY in meta.labels),
        waiting=waiting.get("reason") or "",
        waiting_detail=waiting.get("message") or "",
        unschedulable=unschedulable,
        not_prepared="" if ended else _not_prepared(status.get("initContainerStatuses") or ()),
        advanced=max(
            (time_of(c.get("lastTransitionTime")) for name, c in conditions.items() if _is_step(name, c)),
            default=None,
        ),
        # The deletion timestamp is the time at which the grace period is over.
        gone_by=meta.deleted_at,
        node=(body.get("spec") or {}).get("nodeName") or "",
        job_uid=meta.labels.get(JOB_UID_LABEL) or "",
        job_name=meta.labels.get(JOB_NAME_LABEL) or "",
        item=meta.labels.get(LABEL_ITEM) or "",
        repository=meta.labels.get(LABEL_REPOSITORY) or "",
        allowance=read_allowance(meta.annotations.get(ANNOTATION_ALLOWANCE)),
        started=began,
        began=began
        or bool((body.get("spec") or {}).get("nodeName") and "waiting" not in (agent.get("state") or {})),
    )


def left_in(message: str, *, evidence: bool = False) -> dict[str, Any]:
    """Read a termination message: the report of an agent or of an evidence pod, or the end of a log.

    No pod can report what another kind of pod reports.
    """
    report = None if evidence else Outcome.from_termination_message(message)
    verified = VerifyResult.from_termination_message(message) if evidence else None
    log = "" if report or verified else last_lines(message, MAX_TAIL)
    return {"report": report, "verified": verified, "log": log}


_MISSING_SECRET = re.compile(r'secret "([a-z0-9][-a-z0-9.]{0,252})" not found')
"""The API server's message about a missing Secret (apimachinery, pkg/api/errors/errors.go)."""


def missing_secrets(messages: Iterable[str]) -> tuple[str, ...]:
    """Return the missing Secrets in the newest of the kubelet's volume messages that names any."""
    *_, newest = [(), *filter(None, map(_MISSING_SECRET.findall, messages))]
    return tuple(sorted(set(newest)))


_STEPS = ("PodScheduled", "PodReadyToStartContainers", "Initialized")
"""Conditions that show a pod's progress
(https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions)."""


def _is_step(name: Any, condition: Mapping[str, Any]) -> bool:
    if condition.get("status") == "True":
        return name in _STEPS
    return name == "PodScheduled" and condition.get("reason") == "Unschedulable"


def _not_prepared(statuses: Iterable[Mapping[str, Any]]) -> str:
    """Return the first init container that failed and its message; empty if none failed."""
    for status in statuses:
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            words = (ended.get("message") or ended.get("reason") or "").strip()
            return f"{status['name']}, exit code {ended['exitCode']}: {words}"
    return ""


def read_allowance(text: str | None) -> Allowance | None:
    """Return the allowance of an attempt from the annotation of its Job or pod."""
    try:
        return Allowance.model_validate_json(text) if text else None
    except ValidationError:
        return None


@dataclass(frozen=True)
class Job:
    """The Job of an attempt, or of an evidence pod.

    Attributes:
        number: the number of the attempt; `None` if the Job's name does not follow from the task's.
        verify: the side and the number of the try of an evidence pod's Job; `None` for an attempt.
        failure: the reason of the `Failed` condition; `None` while the Job has not failed.
        complete: whether the Job has the `Complete` condition.
        ready: the number of pods that run and are ready.
        pods: the Job's pods; `None` if they were not read.
        active_label: whether the Job has the label that says that its end is not recorded yet.
        suspended: whether the Job's pods must not run (`spec.suspend`).
        started: when Kueue last admitted the Job (`status.startTime`).
        queue: the name of the Job's queue in Kueue; empty if it is in none.
        waits_for: what the Job waits for, as far as Kueue has said so.
        transcript: where the attempt stores its transcript.
        allowance: how much the attempt may spend; `None` if there is no limit.
        gone: whether the Job was deleted and its pods' reports are known.
    """

    name: str
    uid: str
    owner: str | None
    task: str | None
    number: int | None
    created: datetime
    labels: Mapping[str, str]
    namespace: str = ""
    version: str = field(default="0", compare=False)
    complete: bool = False
    failure: str | None = None
    failure_detail: str = ""
    finished_at: datetime | None = None
    deleting: bool = False
    ready: int = 0
    active_label: bool = True
    pods: tuple[Pod, ...] | None = None
    suspended: bool = False
    started: datetime | None = None
    queue: str = ""
    waits_for: str = ""
    transcript: str | None = None
    transcript_url: str | None = None
    allowance: Allowance | None = None
    gone: bool = False
    verify: tuple[Side, int] | None = None

    @property
    def finished(self) -> bool:
        """Whether the Job has ended, by its conditions Complete and Failed and never by a pod's phase."""
        return self.complete or self.failure is not None

    @property
    def waiting(self) -> bool:
        """Whether the Job exists without running: it is suspended, or Kueue has just admitted it."""
        return not self.finished and (self.suspended or (bool(self.queue) and self.started is None))

    @property
    def began(self) -> datetime:
        """When the attempt started: when Kueue last admitted its Job, or when the Job was created."""
        return self.started if self.queue and self.started else self.created


def read_job(body: Mapping[str, Any]) -> Job:
    meta, status = Metadata.of(body), body.get("status") or {}
    owner = controller_of(body)
    task = owner.get("name") if owner.get("kind") == "AgentTask" else None
    conditions = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    failed, complete = conditions.get("Failed"), conditions.get("Complete")
    last = failed or complete or {}
    queue = meta.labels.get(QUEUE_LABEL) or ""
    return Job(
        name=meta.name,
        uid=meta.uid,
        owner=owner.get("uid") if task else None,
        task=task,
        number=attempt_number(task, meta.name) if task else None,
        created=meta.created,
        labels=meta.labels,
        namespace=meta.namespace,
        version=meta.version,
        complete=complete is not None,
        failure=(failed.get("reason") or "Failed") if failed else None,
        failure_detail=(failed or {}).get("message") or "",
        finished_at=parse_time(status.get("completionTime") or last.get("lastTransitionTime")),
        deleting=meta.deleting,
        ready=int(status.get("ready") or 0),
        active_label=meta.labels.get(LABEL_ACTIVE) == "true",
        suspended=bool((body.get("spec") or {}).get("suspend")),
        started=parse_time(status.get("startTime")) if queue else None,
        queue=queue,
        transcript=(meta.annotations.get(ANNOTATION_TRANSCRIPT) or "")[:MAX_PLACE] or None,
        transcript_url=(meta.annotations.get(ANNOTATION_TRANSCRIPT_URL) or "")[:MAX_PLACE] or None,
        allowance=read_allowance(meta.annotations.get(ANNOTATION_ALLOWANCE)),
        verify=_evidence_number(task, meta.name) if task else None,
    )


def evidence_job_name(task: str, side: Side, number: int) -> str:
    """Return an evidence pod's Job name: `<task>-verify-<side>-<try>`. Long names are cut and get a hash."""
    end = f"-verify-{side}-{number}"
    return f"{label_value(task, _LENGTH - len(end))}{end}"


def _evidence_number(task: str, job: str) -> tuple[Side, int] | None:
    match = re.search(r"-verify-(head|base)-(\d)$", job)
    if match is None:
        return None
    side, number = Side(match.group(1)), int(match.group(2))
    return (side, number) if number and evidence_job_name(task, side, number) == job else None


def job_name(task: str, number: int) -> str:
    """Return the name of an attempt's Job: `<task>-<number>`. Long names are cut and get a hash."""
    return f"{label_value(task, _LENGTH - 1 - len(str(number)))}-{number}"


def attempt_number(task: str, job: str) -> int | None:
    """Return the number in a Job's name, or `None` if the name is not that of a Job of this task."""
    match = re.search(r"-(\d{1,6})$", job)
    if match is None:
        return None
    number = int(match.group(1))
    return number if number and job_name(task, number) == job else None


def label_value(name: str, length: int = _LENGTH) -> str:
    """Return the name if it fits; otherwise its beginning and 8 hex digits of its hash."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: length - 9].rstrip('-.')}-{digest}"


def workload_waits_for(workload: Mapping[str, Any]) -> str | None:
    """Return Kueue's reason for not admitting a Workload; `None` if it has, or has not decided yet."""
    conditions = {c["type"]: c for c in (workload.get("status") or {}).get("conditions") or ()}
    if (conditions.get("Admitted") or {}).get("status") == "True":
        return None
    if not (workload.get("spec") or {}).get("active", True):
        return "Kueue has deactivated the attempt's workload."
    reserved = conditions.get("QuotaReserved")
    if reserved is None:
        return None
    if reserved.get("status") == "True":
        return "Kueue has reserved quota and waits for its admission checks."
    return f"Kueue: {reserved.get('message') or reserved.get('reason')}"[:1024]


def workload_job_uid(workload: Mapping[str, Any]) -> str:
    return Metadata.of(workload).labels.get(_WORKLOAD_JOB_LABEL, "")
