"""Which pod's log a person means. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coding_agent_core.agenttask import LABEL_ATTEMPT

from kubectl_agenttask import PluginError

Body = Mapping[str, Any]


def attempt_of(pod: Body) -> int:
    """The number of the attempt that a pod belongs to; 0 where nothing tells it."""
    value = str((pod["metadata"].get("labels") or {}).get(LABEL_ATTEMPT, ""))
    return int(value) if value.isdigit() else 0


def choose(pods: Sequence[Body], attempt: int | None) -> Body | None:
    """The newest pod of the attempt, by default of the last one that has a pod.

    Raises:
        PluginError: that attempt has none, but others have.
    """
    numbers = sorted({attempt_of(pod) for pod in pods})
    if not numbers:
        return None
    wanted = numbers[-1] if attempt is None else attempt
    if wanted not in numbers:
        there = ", ".join(str(number) for number in numbers)
        raise PluginError(f"attempt {wanted} has no pod (any more). Attempts that have one: {there}.")
    of_attempt = [pod for pod in pods if attempt_of(pod) == wanted]
    return max(of_attempt, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))


def started(pod: Body, container: str) -> bool:
    """Whether the container has begun, so that it has a log.

    Raises:
        PluginError: the pod has no such container.
    """
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    names = [each["name"] for key in ("containers", "initContainers") for each in spec.get(key) or ()]
    if container not in names:
        raise PluginError(
            f"pod {pod['metadata']['name']} has no container {container}: choose --container "
            f"{' or '.join(names)}."
        )
    states = [
        each.get("state") or {}
        for key in ("containerStatuses", "initContainerStatuses")
        for each in status.get(key) or ()
        if each["name"] == container
    ]
    return any("running" in state or "terminated" in state for state in states)


def waiting_for(pod: Body) -> str:
    """Why a pod has not begun, as the cluster says."""
    status = pod.get("status") or {}
    for key in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(key) or ():
            waiting = (each.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "PodInitializing"):
                return str(waiting["reason"])
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "not scheduled")
    return str(status.get("phase") or "Pending")
