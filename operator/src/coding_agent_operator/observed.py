"""What the operator reads of Jobs and pods, as plain data, and the names of what it makes. Pure.

The readers accept whatever is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coding_agent_core.agenttask import (
    ANNOTATION_ALLOWANCE,
    ANNOTATION_TRANSCRIPT,
    ANNOTATION_TRANSCRIPT_URL,
    LABEL_ACTIVE,
    LABEL_DEFAULTED,
    LABEL_ITEM,
    LABEL_REPOSITORY,
)
from coding_agent_core.attempts import MAX_PLACE, MAX_TAIL, Outcome
from coding_agent_core.objects import Metadata, controller_of, time_of
from coding_agent_core.tasks import parse_time
from coding_agent_core.text import last_lines
from coding_agent_core.usage import Allowance
from pydantic import ValidationError

MANAGER = "coding-agent-operator"
"""Field manager of writes and source of events."""
DEFAULTED, NOT_DEFAULTED = f"{LABEL_DEFAULTED}=true", f"{LABEL_DEFAULTED}!=true"
"""Label selectors of the tasks that can be worked on, and of those that are to be completed first."""
ACTIVE = f"{LABEL_ACTIVE}=true"
"""Selects the Jobs whose end is not recorded."""
ATTEMPT = "attempt"
"""Component of an attempt's Job and pod."""
ATTEMPTS = f"app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/component={ATTEMPT}"
"""Selects the pods of attempts."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's label of a Job: the LocalQueue that it is in."""
WORKLOADS = ("kueue.x-k8s.io", "v1beta2", "workloads")
"""Group, version and plural of what Kueue makes of a Job."""
_WORKLOAD_JOB_LABEL = "kueue.x-k8s.io/job-uid"
KUEUE_NOT_INSTALLED = (
    "Kueue is not installed in this cluster, so nobody admits the attempt's Job. Install it, or set "
    "`queue.engine` to `native`."
)
_LENGTH = 63
"""RFC 1123 label: a Job's name becomes a label value of its pods."""
JOB_UID_LABEL, JOB_NAME_LABEL = "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"
"""The Job controller's labels of a pod."""
AGENT_CONTAINER = "agent"
WORKSPACE_CONTAINER = "workspace"
NOT_READY_TO_START = "PodNotReadyToStart"
"""Our word for a pod on a node whose volumes or network are not set up: no container status says so."""


@dataclass(frozen=True)
class Pod:
    """A pod of an attempt, seen through its agent container.

    Attributes:
        disruption: reason of the `DisruptionTarget` condition
            (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
        exit_code: of the agent's container, once it ended.
        ended: why the container ended, as the kubelet says (`OOMKilled`, `Error`, `Completed`).
        report: what the agent left as the container's termination message.
        log: the last lines of its log, which the kubelet took where the agent left nothing that can be read
            (`FallbackToLogsOnError`).
        waiting: why a container waits (`ErrImagePull`, `CreateContainerConfigError`, …).
        waiting_detail: the kubelet's words for that, or the scheduler's for `unschedulable`.
        not_prepared: which init container failed, and its message, if the agent never started.
        advanced: when its start last made progress (it was scheduled, set up, prepared), or when it was
            first found unschedulable.
        gone_by: when it was to be gone at the latest, once it is being deleted.
        missing: names of Secrets that it waits for.
        node: that it is on.
        job_uid, job_name: of its Job.
        item, repository: hashes of the item's and the repository's identity, as in its labels.
        allowance: what its attempt may spend; `None`: as much as it needs.
        began: the agent's container has started; in doubt it has.
        started: the agent's container has certainly started.
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
        """All its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def deleting(self) -> bool:
        """It is being deleted; it may run until it is gone."""
        return self.gone_by is not None


def read_pods(bodies: Iterable[Mapping[str, Any]]) -> tuple[Pod, ...]:
    """Pods, oldest first."""
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
    # Once the agent runs, its sidecar may be started again: that does not mean that the pod is lost.
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
        **left_in(ended.get("message") or ""),
        waiting=waiting.get("reason") or "",
        waiting_detail=waiting.get("message") or "",
        unschedulable=unschedulable,
        not_prepared="" if ended else _not_prepared(status.get("initContainerStatuses") or ()),
        advanced=max(
            (time_of(c.get("lastTransitionTime")) for name, c in conditions.items() if _is_step(name, c)),
            default=None,
        ),
        # The API server writes the time at which the grace period is over.
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


def left_in(message: str) -> dict[str, Any]:
    """What a termination message says: the agent's report, or the end of its log."""
    report = Outcome.from_termination_message(message)
    return {"report": report, "log": "" if report else last_lines(message, MAX_TAIL)}


_MISSING_SECRET = re.compile(r'secret "([a-z0-9][-a-z0-9.]{0,252})" not found')
"""The API server's words for what the kubelet did not find (apimachinery, pkg/api/errors/errors.go)."""


def missing_secrets(messages: Iterable[str]) -> tuple[str, ...]:
    """The Secrets that the newest of a kubelet's messages about volumes names, of those that name any."""
    *_, newest = [(), *filter(None, map(_MISSING_SECRET.findall, messages))]
    return tuple(sorted(set(newest)))


_STEPS = ("PodScheduled", "PodReadyToStartContainers", "Initialized")
"""https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions"""


def _is_step(name: Any, condition: Mapping[str, Any]) -> bool:
    if condition.get("status") == "True":
        return name in _STEPS
    return name == "PodScheduled" and condition.get("reason") == "Unschedulable"


def _not_prepared(statuses: Iterable[Mapping[str, Any]]) -> str:
    """Why a pod failed before its agent started: the first init container that failed, and its message."""
    for status in statuses:
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            words = (ended.get("message") or ended.get("reason") or "").strip()
            return f"{status['name']}, exit code {ended['exitCode']}: {words}"
    return ""


def read_allowance(text: str | None) -> Allowance | None:
    """What the annotation of a Job or pod says that its attempt may spend."""
    try:
        return Allowance.model_validate_json(text) if text else None
    except ValidationError:
        return None


@dataclass(frozen=True)
class Job:
    """A Job: one attempt.

    Attributes:
        number: of the attempt, `None` if its name is none of the task's.
        failure: reason of the `Failed` condition; `None` while it has not failed.
        complete: it has the `Complete` condition.
        ready: pods that run and are ready.
        pods: `None` if they were not read.
        active_label: its end is not recorded yet.
        suspended: its pods are not to run (`spec.suspend`).
        started: when Kueue admitted it last (`status.startTime`).
        queue: Kueue's queue that it is in; empty: it is in none.
        waits_for: what Kueue says it waits for, as far as that is known.
        transcript: where the attempt is to keep its transcript.
        allowance: what the attempt may spend; `None`: as much as it needs.
        gone: it was deleted; what its pods have reported is known.
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

    @property
    def finished(self) -> bool:
        """Terminal: one of the conditions Complete or Failed, never a pod's phase."""
        return self.complete or self.failure is not None

    @property
    def waiting(self) -> bool:
        """It exists and does not run: it is suspended, or Kueue has just admitted it."""
        return not self.finished and (self.suspended or (bool(self.queue) and self.started is None))

    @property
    def began(self) -> datetime:
        """When the attempt started: when Kueue admitted it last, else with its Job."""
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
    )


def job_name(task: str, number: int) -> str:
    """The Job of an attempt: `<task>-<number>`, with long names cut and made unique by a hash."""
    return f"{label_value(task, _LENGTH - 1 - len(str(number)))}-{number}"


def attempt_number(task: str, job: str) -> int | None:
    """The number in a Job's name, `None` if it is not the name of a Job of this task."""
    match = re.search(r"-(\d{1,6})$", job)
    if match is None:
        return None
    number = int(match.group(1))
    return number if number and job_name(task, number) == job else None


def label_value(name: str, length: int = _LENGTH) -> str:
    """The name if it fits, else its head and 8 hex of its hash."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: length - 9].rstrip('-.')}-{digest}"


def workload_waits_for(workload: Mapping[str, Any]) -> str | None:
    """Why Kueue has not admitted a workload, in its own words; `None` if it has, or has not decided yet."""
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
