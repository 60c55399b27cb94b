"""Names and labels of what the operator makes."""

from __future__ import annotations

import hashlib
import re

from coding_agent_core.agenttask import LABEL_ACTIVE

MANAGER = "coding-agent-operator"
"""Field manager of writes and source of events."""
ACTIVE = f"{LABEL_ACTIVE}=true"
"""Selects the tasks that have not ended, and the Jobs whose end is not recorded."""
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


def job_name(task: str, number: int) -> str:
    """The Job of an attempt: `<task>-<number>`, with long names cut and told apart by a hash."""
    return f"{label_value(task, _LENGTH - 1 - len(str(number)))}-{number}"


def attempt_number(task: str, job: str) -> int | None:
    """The number in a Job's name, `None` if it is no Job name of this task."""
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
