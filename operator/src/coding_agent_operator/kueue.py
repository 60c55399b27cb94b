"""Kueue in place of our own limits: what a Job must have for it, and what it says of a Job. Pure.

The contract is Kueue's for plain Jobs (https://kueue.sigs.k8s.io/docs/tasks/run/jobs/): created suspended,
with the queue's name as label; Kueue sets `suspend: false` once there is quota, true again to preempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coding_agent_core.settings.queues import Kueue

from coding_agent_operator.names import QUEUE_LABEL
from coding_agent_operator.observed import Task

WORKLOADS = ("kueue.x-k8s.io", "v1beta2", "workloads")
"""Group, version and plural of what Kueue makes of a Job."""
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
NOT_INSTALLED = (
    "Kueue is not installed in this cluster, so nobody admits the attempt's Job. Install it, or set "
    "`queue.engine` to `native`."
)


def queued(manifest: Mapping[str, Any], task: Task, kueue: Kueue) -> dict[str, Any]:
    """The manifest of an attempt's Job as Kueue wants it: suspended, in the queue of its repository."""
    source = task.spec.source
    metadata, spec = manifest["metadata"], manifest["spec"]
    labels = {**metadata["labels"], QUEUE_LABEL: kueue.of(source.host, source.repository)}
    return {
        **manifest,
        "metadata": {**metadata, "labels": labels},
        "spec": {**spec, "suspend": True},
    }


def waits_for(workload: Mapping[str, Any]) -> str | None:
    """Why Kueue has not admitted a workload, in its own words; `None` if it has, or has not looked yet."""
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


def job_uid(workload: Mapping[str, Any]) -> str:
    """The uid of the Job that a workload stands for."""
    return str((workload["metadata"].get("labels") or {}).get(JOB_UID_LABEL, ""))
