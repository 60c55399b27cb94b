"""What the operator reads from the cluster, as plain data, and the names of what it makes. Pure.

The readers accept whatever is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from coding_agent_core.agenttask import (
    ANNOTATION_ALLOWANCE,
    ANNOTATION_TRANSCRIPT,
    ANNOTATION_TRANSCRIPT_URL,
    LABEL_ACTIVE,
    LABEL_DEFAULTED,
    LABEL_ITEM,
    LABEL_REPOSITORY,
    AttemptStatus,
    Condition,
    Spec,
    Status,
    TaskResult,
    labels_for,
    parse_spec,
)
from coding_agent_core.budget import Allowance
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.outcome import MAX_PLACE
from coding_agent_core.tasks import parse_time
from pydantic import BaseModel, ValidationError

_M = TypeVar("_M", bound=BaseModel)

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
JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
"""The Job controller's label of a pod."""
AGENT_CONTAINER = "agent"
WORKSPACE_CONTAINER = "workspace"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's label of a Job: the LocalQueue that it is in."""
_LENGTH = 63
"""RFC 1123 label: a Job's name becomes a label value of its pods."""
NOT_READY_TO_START = "PodNotReadyToStart"
"""Our word for a pod on a node whose volumes or network are not set up: no container status says so."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UnreadableTaskError(CodingAgentError):
    """An AgentTask whose spec this release cannot read."""


@dataclass(frozen=True)
class Task:
    """An AgentTask.

    Attributes:
        status: as far as it could be read; what was wrong in it is left out.
        intact: nothing was wrong in it.
        item: hash of the item's identity, as in its label.
        repository: hash of the repository's identity, as in its label.
        labels: as stored; `missing_labels` are those that it lacks.
    """

    name: str
    uid: str
    version: str
    generation: int
    created: datetime
    deleting: bool
    labels: Mapping[str, str]
    spec: Spec
    status: Status
    item: str
    repository: str
    wanted_labels: Mapping[str, str]
    intact: bool = True

    @cached_property
    def ended(self) -> bool:
        """Its `Succeeded` condition is True or False: conditions are the truth, not the phase."""
        return self.status.terminal_phase is not None

    @property
    def missing_labels(self) -> dict[str, str]:
        """The labels that tasks of its item have and this one lacks."""
        return {key: value for key, value in self.wanted_labels.items() if self.labels.get(key) != value}


@dataclass(frozen=True)
class Pod:
    """A pod of an attempt, seen through its agent container.

    Attributes:
        disruption: reason of the `DisruptionTarget` condition
            (https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions).
        exit_code: of the agent's container, once it ended.
        ended: why the container ended, as the kubelet says (`OOMKilled`, `Error`, `Completed`).
        message: the container's termination message.
        waiting: why a container waits (`ErrImagePull`, `CreateContainerConfigError`, …).
        waiting_detail: the kubelet's words for that, or the scheduler's for `unschedulable`.
        not_prepared: which init container failed, and its message, if the agent never started.
        advanced: when it last came a step nearer to its beginning: it was scheduled, set up, prepared; or was
            first found unschedulable.
        gone_by: when it was to be gone at the latest, once it is being deleted.
        missing: names of Secrets that it waits for.
        node: that it is on.
        job_uid: of its Job.
        began: the agent's container has started; in doubt it has.
    """

    name: str
    phase: str
    created: datetime
    reason: str = ""
    detail: str = ""
    disruption: str = ""
    exit_code: int | None = None
    ended: str = ""
    message: str = ""
    waiting: str = ""
    waiting_detail: str = ""
    unschedulable: bool = False
    not_prepared: str = ""
    advanced: datetime | None = None
    gone_by: datetime | None = None
    missing: tuple[str, ...] = ()
    node: str = ""
    job_uid: str = ""
    began: bool = True

    @property
    def deleting(self) -> bool:
        """It is being deleted; it may run until it is gone."""
        return self.gone_by is not None


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
    """

    name: str
    uid: str
    owner: str | None
    task: str | None
    number: int | None
    created: datetime
    labels: Mapping[str, str]
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


def read_task(body: Mapping[str, Any]) -> Task:
    """An AgentTask as the API server has it.

    Raises:
        UnreadableTaskError: its spec does not fit; the message names the task and the field.
    """
    meta = body["metadata"]
    try:
        spec = parse_spec(body)
        wanted = labels_for(spec.item)
    except (ValidationError, ValueError) as error:
        raise UnreadableTaskError(f"AgentTask {meta['name']} cannot be read: {error}") from error
    status, intact = read_status(body.get("status"))
    return Task(
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        generation=int(meta.get("generation") or 1),
        created=_time(meta.get("creationTimestamp")),
        deleting=bool(meta.get("deletionTimestamp")),
        labels=dict(meta.get("labels") or {}),
        spec=spec,
        status=status,
        item=wanted[LABEL_ITEM],
        repository=wanted[LABEL_REPOSITORY],
        wanted_labels=wanted,
        intact=intact,
    )


def read_status(raw: Any) -> tuple[Status, bool]:
    """The status without what cannot be read, and whether nothing had to be left out."""
    if raw is None:
        return Status(), True
    if not isinstance(raw, Mapping):
        return Status(), False
    fields = {key: value for key, value in raw.items() if key not in ("conditions", "attempts", "result")}
    conditions, conditions_ok = _readable(Condition, raw.get("conditions"))
    attempts, attempts_ok = _readable(AttemptStatus, raw.get("attempts"))
    results, result_ok = _readable(TaskResult, [raw["result"]] if raw.get("result") is not None else [])
    numbers = [attempt.number for attempt in attempts]
    unique = tuple({attempt.number: attempt for attempt in attempts}[n] for n in sorted(set(numbers)))
    intact = conditions_ok and attempts_ok and result_ok and [a.number for a in unique] == numbers
    parts: dict[str, Any] = {"conditions": conditions, "attempts": unique}
    if results:
        parts["result"] = results[0]
    for key in list(fields):
        try:
            Status.model_validate({key: fields[key]})
        except ValidationError:
            del fields[key]
            intact = False
    return Status.model_validate({**fields, **parts}), intact


def _readable(model: type[_M], raw: Any) -> tuple[tuple[_M, ...], bool]:
    if raw is None:
        return (), True
    if not isinstance(raw, list):
        return (), False
    found: list[_M] = []
    for entry in raw:
        try:
            found.append(model.model_validate(entry))
        except ValidationError:
            continue
    return tuple(found), len(found) == len(raw)


def read_job(body: Mapping[str, Any]) -> Job:
    meta, status = body["metadata"], body.get("status") or {}
    owner: Mapping[str, Any] = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), {})
    task = owner.get("name") if owner.get("kind") == "AgentTask" else None
    conditions = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    notes = meta.get("annotations") or {}
    failed, complete = conditions.get("Failed"), conditions.get("Complete")
    last = failed or complete or {}
    queue = (meta.get("labels") or {}).get(QUEUE_LABEL) or ""
    return Job(
        name=meta["name"],
        uid=meta["uid"],
        owner=owner.get("uid") if task else None,
        task=task,
        number=attempt_number(task, meta["name"]) if task else None,
        created=_time(meta.get("creationTimestamp")),
        labels=dict(meta.get("labels") or {}),
        complete=complete is not None,
        failure=(failed.get("reason") or "Failed") if failed else None,
        failure_detail=(failed or {}).get("message") or "",
        finished_at=parse_time(status.get("completionTime") or last.get("lastTransitionTime")),
        deleting=bool(meta.get("deletionTimestamp")),
        ready=int(status.get("ready") or 0),
        active_label=(meta.get("labels") or {}).get(LABEL_ACTIVE) == "true",
        suspended=bool((body.get("spec") or {}).get("suspend")),
        started=parse_time(status.get("startTime")) if queue else None,
        queue=queue,
        transcript=(notes.get(ANNOTATION_TRANSCRIPT) or "")[:MAX_PLACE] or None,
        transcript_url=(notes.get(ANNOTATION_TRANSCRIPT_URL) or "")[:MAX_PLACE] or None,
        allowance=_allowance(notes.get(ANNOTATION_ALLOWANCE)),
    )


def _allowance(text: str | None) -> Allowance | None:
    try:
        return Allowance.model_validate_json(text) if text else None
    except ValidationError:
        return None


def read_pods(bodies: Iterable[Mapping[str, Any]]) -> tuple[Pod, ...]:
    """Pods, oldest first."""
    return tuple(sorted((read_pod(body) for body in bodies), key=lambda pod: (pod.created, pod.name)))


def read_pod(body: Mapping[str, Any]) -> Pod:
    meta, status = body["metadata"], body.get("status") or {}
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
        name=meta["name"],
        phase=status.get("phase") or "Pending",
        created=_time(meta.get("creationTimestamp")),
        reason=status.get("reason") or "",
        detail=status.get("message") or "",
        disruption=(disruption.get("reason") or "Disrupted") if disruption.get("status") == "True" else "",
        exit_code=ended.get("exitCode"),
        ended=ended.get("reason") or "",
        message=ended.get("message") or "",
        waiting=waiting.get("reason") or "",
        waiting_detail=waiting.get("message") or "",
        unschedulable=unschedulable,
        not_prepared="" if ended else _not_prepared(status.get("initContainerStatuses") or ()),
        advanced=max(
            (_time(c.get("lastTransitionTime")) for name, c in conditions.items() if _is_step(name, c)),
            default=None,
        ),
        # The API server writes the time at which the grace period is over.
        gone_by=_time(meta["deletionTimestamp"]) if meta.get("deletionTimestamp") else None,
        node=(body.get("spec") or {}).get("nodeName") or "",
        job_uid=(meta.get("labels") or {}).get(JOB_UID_LABEL) or "",
        began=began
        or bool((body.get("spec") or {}).get("nodeName") and "waiting" not in (agent.get("state") or {})),
    )


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


def _time(value: object) -> datetime:
    return parse_time(value) or EPOCH


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
