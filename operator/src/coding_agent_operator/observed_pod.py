"""What the operator reads of an attempt's pod, as plain data. Pure.

The readers accept whatever is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coding_agent_core.agenttask import ANNOTATION_ALLOWANCE, LABEL_ITEM, LABEL_REPOSITORY
from coding_agent_core.attempts import MAX_TAIL, Outcome
from coding_agent_core.objects import Metadata, time_of
from coding_agent_core.text import last_lines
from coding_agent_core.usage import Allowance
from pydantic import ValidationError

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
