"""Pods of a release without a node that could run them: bound, ready, ended, and with lines in their logs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.plugin.fake_kubelet import FakeKubelet

NODE = "node-of-the-documentation"
LINES = {
    "receiver": [
        '{"level": "ERROR", "message": "Task not queued: the API server answered 403", "delivery": "ID"}',
        '{"level": "ERROR", "message": "Signature validation failed for a GitHub webhook: event=issues, '
        'client=203.0.113.7"}',
    ],
    "operator": [
        '{"level": "WARNING", "message": "Task pricing-issue-7: 403; next try in 1.0 s"}',
        '{"level": "ERROR", "message": "Cannot be served: its Lease cannot be renewed"}',
    ],
    "reporter": ['{"level": "WARNING", "message": "github.com does not answer; looking again"}'],
    "poller": ['{"level": "INFO", "message": "Polled github.com: 3 labeled, 0 recovered by poll, 3 known"}'],
}
"""By container, what the programs log in the situations that the pages describe."""
ENDS = {"poller", "check"}
"""Components whose pods have done their work at once."""
_COMPONENT = "app.kubernetes.io/component"
_PAUSE_S = 0.2
_LIMIT = {"_request_timeout": 10}


class _ByContainer(dict[tuple[str, str], list[str]]):
    def __missing__(self, key: tuple[str, str]) -> list[str]:
        return LINES[key[1]]


class RunningPods:
    """A node in the background that takes pods: those of a namespace or of all, perhaps of one component."""

    def __init__(self, plane: PlaneUnderTest, namespace: str | None, only: str | None = None) -> None:
        self._plane, self._namespace = plane, namespace
        self._selector = "" if only is None else f"{_COMPONENT}={only}"
        self._kubelet = FakeKubelet(plane, NODE)
        self._kubelet.lines = _ByContainer()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RunningPods:
        self._kubelet.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._kubelet.__exit__()

    def _run(self) -> None:
        core = self._plane.core
        while not self._stop.wait(_PAUSE_S):
            try:
                for pod in core.list_pod_for_all_namespaces(label_selector=self._selector, **_LIMIT).items:
                    if self._namespace in (None, pod.metadata.namespace):
                        self._look_at(pod)
            except (ApiException, HTTPError):
                continue  # a conflict, or the control plane is on its way down: look again

    def _look_at(self, pod: Any) -> None:
        core, name, namespace = self._plane.core, pod.metadata.name, pod.metadata.namespace
        if pod.metadata.deletion_timestamp is not None:
            core.delete_namespaced_pod(name, namespace, grace_period_seconds=0, **_LIMIT)
        elif pod.spec.node_name is None:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"metadata": {"name": name}, "target": target}
            core.create_namespaced_pod_binding(name, namespace, binding, _preload_content=False, **_LIMIT)
        elif (pod.metadata.labels or {}).get(_COMPONENT) in ENDS:
            if pod.status.phase != "Succeeded":
                core.patch_namespaced_pod_status(name, namespace, {"status": _ended(pod)}, **_LIMIT)
        elif not any(
            condition.type == "Ready" and condition.status == "True"
            for condition in pod.status.conditions or []
        ):
            # Also again: the node's own controller finds that nobody speaks for it, and says so of its pods.
            core.patch_namespaced_pod_status(name, namespace, {"status": _ready(pod)}, **_LIMIT)


def _ready(pod: Any) -> dict[str, Any]:
    state = {"running": {"startedAt": _now()}}
    conditions = [{"type": "Ready", "status": "True"}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": _containers(pod, state)}


def _ended(pod: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": 0, "startedAt": _now(), "finishedAt": _now()}}
    return {"phase": "Succeeded", "containerStatuses": _containers(pod, state)}


def _containers(pod: Any, state: dict[str, Any]) -> list[dict[str, Any]]:
    same = {"imageID": "", "ready": "running" in state, "restartCount": 0, "state": state}
    return [{"name": container.name, "image": container.image, **same} for container in pod.spec.containers]


def _now() -> str:
    return datetime.now(UTC).isoformat()
