"""What the operator reads from the cluster, as plain data, and the names of what it makes. Pure.

The readers accept whatever is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from coding_agent_core.agenttask import (
    ANNOTATION_ALLOWANCE,
    ANNOTATION_TRANSCRIPT,
    ANNOTATION_TRANSCRIPT_URL,
    LABEL_ACTIVE,
    LABEL_DEFAULTED,
)
from coding_agent_core.attempts import MAX_PLACE
from coding_agent_core.objects import Metadata, controller_of
from coding_agent_core.tasks import parse_time
from coding_agent_core.usage import Allowance

from coding_agent_operator.observed_pod import Pod, read_allowance

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
