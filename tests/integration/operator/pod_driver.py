"""In place of the kubelet: pods of Jobs end as a script says, through their status subresource."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.fixtures.cluster import PlaneUnderTest


@dataclass(frozen=True)
class Ends:
    """How a pod ends."""

    code: int = 0
    message: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Waits:
    """A pod that never begins: why its container waits."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class NotSetUp:
    """A pod on a node whose containers cannot be created yet: what the kubelet says in an Event."""

    message: str
    reason: str = "FailedMount"


def reported(reason: Reason, message: str = "said by the agent", **fields: Any) -> Ends:
    outcome = Outcome(reason=reason, message=message, **fields)
    return Ends(outcome.exit_code.value, outcome.to_termination_message())


DONE = reported(Reason.COMPLETED, "done")
RUNS = None
"""The pod runs on."""

Script = Callable[[str], Ends | Waits | NotSetUp | None]
"""From a Job's name to its pod's end."""


class PodDriver:
    """Plays the kubelet of one namespace until `stop`."""

    def __init__(self, plane: PlaneUnderTest, namespace: str, script: Script) -> None:
        self._core: Any = client.CoreV1Api(plane.api_client)
        self._namespace = namespace
        self.script = script
        self._stop = threading.Event()
        self._watch = watch.Watch()  # type: ignore[no-untyped-call]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PodDriver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.stop()  # type: ignore[no-untyped-call]
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for event in self._watch.stream(  # type: ignore[no-untyped-call]
                    self._core.list_namespaced_pod,
                    self._namespace,
                    timeout_seconds=2,  # meant to expire
                    _request_timeout=5,
                ):
                    if event["type"] != "DELETED":
                        self._play(event["object"])
            except Exception:  # the API server is killed by some tests; the next look finds it again
                self._stop.wait(0.1)

    def _play(self, pod: Any) -> None:
        job = (pod.metadata.labels or {}).get("batch.kubernetes.io/job-name")
        if job is None or pod.status.phase in ("Succeeded", "Failed") or pod.metadata.deletion_timestamp:
            return
        end = self.script(job)
        if end is None and pod.status.phase == "Running":
            return
        if isinstance(end, Waits | NotSetUp) and pod.status.container_statuses:
            return
        match end:
            case None:
                status = running()
            case Waits():
                status = waiting(end)
            case NotSetUp():
                status = not_set_up()
                self._core.create_namespaced_event(self._namespace, setup_event(pod, end))
            case _:
                status = ended(end)
        try:
            self._core.patch_namespaced_pod_status(pod.metadata.name, self._namespace, {"status": status})
        except ApiException as error:
            if error.status not in (404, 409):
                raise


def running() -> dict[str, Any]:
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [_container(running={"startedAt": "2026-01-01T00:00:00Z"})],
    }


def waiting(end: Waits) -> dict[str, Any]:
    state = {"reason": end.reason, "message": end.message}
    return {"phase": "Pending", "containerStatuses": [_container(waiting=state)]}


def not_set_up() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
        {"type": "PodReadyToStartContainers", "status": "False"},
    ]
    container = _container(waiting={"reason": "ContainerCreating"})
    return {"phase": "Pending", "conditions": conditions, "containerStatuses": [container]}


def setup_event(pod: Any, end: NotSetUp) -> dict[str, Any]:
    meta = pod.metadata
    return {
        "metadata": {"generateName": f"{meta.name}."},
        "involvedObject": {"kind": "Pod", "name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "type": "Warning",
        "reason": end.reason,
        "message": end.message,
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }


def ended(end: Ends) -> dict[str, Any]:
    state = {"exitCode": end.code, "message": end.message, "reason": end.reason or "Completed"}
    return {
        "phase": "Failed" if end.code else "Succeeded",
        "containerStatuses": [_container(terminated=state)],
    }


def _container(**state: Any) -> dict[str, Any]:
    return {
        "name": "agent",
        "image": "x",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }
