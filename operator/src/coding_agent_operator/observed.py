"""What the operator reads from the cluster, as plain data, and the names of what it makes. Pure.

The readers accept whatever is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from coding_agent_core.admission import must_check_label
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
from coding_agent_core.attempts import MAX_PLACE
from coding_agent_core.commands import CommandName, stored_commands
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.tasks import parse_time
from coding_agent_core.usage import Allowance
from pydantic import BaseModel, ValidationError

from coding_agent_operator.observed_pod import Pod, read_allowance, time_of

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
        check_label: the reporter has to read the item's labels.
        cancel_asked: when we learned of the oldest `/cancel` that waits on it; nobody has checked yet whether
            its author may give it.
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
    check_label: bool = False
    cancel_asked: datetime | None = None

    @cached_property
    def ended(self) -> bool:
        """Its `Succeeded` condition is True or False: conditions are the truth, not the phase."""
        return self.status.terminal_phase is not None

    @property
    def missing_labels(self) -> dict[str, str]:
        """The labels that tasks of its item have and this one lacks."""
        return {key: value for key, value in self.wanted_labels.items() if self.labels.get(key) != value}

    def newly_ended(self, new: Status) -> list[AttemptStatus]:
        """The attempts that have ended in the new status, and had not in this task's."""
        known = {attempt.number for attempt in self.status.attempts if attempt.outcome is not None}
        return [attempt for attempt in new.attempts if attempt.outcome and attempt.number not in known]


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
        created=time_of(meta.get("creationTimestamp")),
        deleting=bool(meta.get("deletionTimestamp")),
        labels=dict(meta.get("labels") or {}),
        spec=spec,
        status=status,
        item=wanted[LABEL_ITEM],
        repository=wanted[LABEL_REPOSITORY],
        wanted_labels=wanted,
        intact=intact,
        check_label=must_check_label(body),
        cancel_asked=min(
            (entry.received_at for entry in stored_commands(body) if entry.name is CommandName.CANCEL),
            default=None,
        ),
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
        created=time_of(meta.get("creationTimestamp")),
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
        allowance=read_allowance(notes.get(ANNOTATION_ALLOWANCE)),
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
    return str((workload["metadata"].get("labels") or {}).get(_WORKLOAD_JOB_LABEL, ""))
