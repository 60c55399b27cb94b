"""A namespace whose attempts go through Kueue: settings and queues are those of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.task.reasons import Reason
from coding_agent_docs.blocks import blocks
from coding_agent_testbed.cluster.access import KubectlError
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.fixtures.cluster import KueueUnderTest
from tests.fixtures.watcher import Object, Watcher
from tests.integration.operator.pod_driver import PodDriver, Script, ended, reported
from tests.integration.operator.world import World

PAGE = Path(__file__).parents[3] / "docs" / "operations" / "kueue.md"
DOCUMENTED = [block for block in blocks(PAGE) if block.language == "yaml"]
SETTINGS: dict[str, Any] = yaml.safe_load(next(item.text for item in DOCUMENTED if item.word == "config"))
QUEUES: list[dict[str, Any]] = [
    body for entry in DOCUMENTED if entry.word != "config" for body in yaml.safe_load_all(entry.text)
]
PREEMPTED = reported(Reason.CANCELLED, "stopped by a signal")


class Place(World):
    """The namespace, with one ClusterQueue of its own."""

    def __init__(self, plane: KueueUnderTest, namespace: str) -> None:
        super().__init__(plane, namespace)
        self.kueue = plane.kueue
        self.cohort = f"company-{namespace}"
        self.cluster_queue = f"agents-{namespace}"
        self._cluster_queues = [self.cluster_queue]

    def queues(self, **of_cluster_queue: Any) -> None:
        """Make the documented queues, the ClusterQueue with more fields in its spec."""
        for body in QUEUES:
            self.make(json.loads(json.dumps(body)), **of_cluster_queue)

    def make(self, body: dict[str, Any], **of_cluster_queue: Any) -> None:
        """Make one object of the documentation, in this namespace."""
        if body["kind"] == "ClusterQueue":
            body["metadata"]["name"] = self.cluster_queue
            labels = {"kubernetes.io/metadata.name": self.namespace}
            body["spec"] |= {"namespaceSelector": {"matchLabels": labels}, **of_cluster_queue}
        elif body["kind"] == "LocalQueue":
            body["metadata"]["namespace"] = self.namespace
            body["spec"]["clusterQueue"] = self.cluster_queue
        self.plane.apply(body)

    def lend_from_another_team(self) -> None:
        """A queue `research` with quota for one attempt, which is lent to ours until it is needed."""
        name = f"research-{self.namespace}"
        quota = {"cpu": "350m", "memory": "768Mi", "ephemeral-storage": "512Mi"}
        resources = [{"name": key, "nominalQuota": value} for key, value in quota.items()]
        flavors = [{"name": "any-node", "resources": resources}]
        api = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
        self.plane.apply(
            {
                **api,
                "kind": "ClusterQueue",
                "metadata": {"name": name},
                "spec": {
                    "cohortName": self.cohort,
                    "namespaceSelector": {},
                    "preemption": {"reclaimWithinCohort": "Any"},
                    "resourceGroups": [{"coveredResources": list(quota), "flavors": flavors}],
                },
            },
            {
                **api,
                "kind": "LocalQueue",
                "metadata": {"name": "research", "namespace": self.namespace},
                "spec": {"clusterQueue": name},
            },
        )
        self._cluster_queues.append(name)

    def workloads(self) -> dict[str, dict[str, Any]]:
        """What Kueue has, by the name of the Job (or whatever else) that it stands for."""
        found = self.plane.get("-n", self.namespace, "workloads.kueue.x-k8s.io")["items"]
        return {entry["metadata"]["ownerReferences"][0]["name"]: entry for entry in found}

    def waits(self, name: str, words: str) -> str | None:
        """The message of a task that waits with these words of Kueue's in it; else `None`."""
        status = self.status(name)
        if (status.get("phase"), status.get("reason")) != ("Queued", "WaitingForKueue"):
            return None
        message = next(str(c["message"]) for c in status["conditions"] if c["type"] == "Succeeded")
        return message if words in message else None

    def because(self, name: str, reason: str) -> dict[str, Any] | None:
        """The status of a task that is in its phase for this reason; else `None`."""
        status = self.status(name)
        return status if status.get("reason") == reason else None

    def phases(self) -> dict[str, str]:
        return {t["metadata"]["name"]: t.get("status", {}).get("phase", "") for t in self.tasks()}

    def running(self) -> list[str]:
        return sorted(name for name, phase in self.phases().items() if phase == "Running")

    def refused(self, account: str) -> list[str]:
        """What the API server has forbidden to a service account of this namespace, by its audit log."""
        user = f"system:serviceaccount:{self.namespace}:{account}"
        # What follows the last end of a line is being written.
        *lines, _ = self.plane.plane.folders.audit_log.read_text().split("\n")
        entries = map(json.loads, lines)
        return [
            f"{entry['verb']} {entry['requestURI']}"
            for entry in entries
            if entry["user"]["username"] == user and entry.get("responseStatus", {}).get("code") == 403
        ]

    def clear(self) -> None:
        """Delete what is not in the namespace; the Jobs first, or Kueue keeps the queue for them."""
        quietly = ["--ignore-not-found", "--timeout=60s"]
        self.plane.kubectl("-n", self.namespace, "delete", "agt,jobs", "--all", *quietly)
        try:
            self.plane.kubectl("delete", "clusterqueue", *self._cluster_queues, *quietly)
        except KubectlError as error:
            raise AssertionError(f"{error}\n{self.kueue.log()}") from error


class Kubelet(PodDriver):
    """As the pod driver, but pods are on a node: one that is deleted can still say its last word."""

    def __init__(self, place: Place, script: Script) -> None:
        super().__init__(place.plane, place.namespace, script)
        self._node = f"node-of-{place.namespace}"

    def __enter__(self) -> Kubelet:
        self._core.create_node({"metadata": {"name": self._node}}, _request_timeout=60)
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._core.delete_node(self._node, _request_timeout=60)

    def _play(self, pod: Any) -> None:
        meta = pod.metadata
        if meta.deletion_timestamp is None:
            if pod.spec.node_name is None:
                self._bind(meta.name)
            super()._play(pod)
            return
        if pod.status.phase == "Running":
            self._core.patch_namespaced_pod_status(meta.name, self._namespace, {"status": ended(PREEMPTED)})
        try:
            self._core.delete_namespaced_pod(meta.name, self._namespace, grace_period_seconds=0)
        except ApiException as error:
            if error.status != 404:
                raise

    def _bind(self, name: str) -> None:
        target = client.V1ObjectReference(kind="Node", name=self._node)
        binding = client.V1Binding(metadata=client.V1ObjectMeta(name=name), target=target)
        # Without the answer, which the client cannot read (it is a Status, not a Binding).
        self._core.create_namespaced_pod_binding(name, self._namespace, binding, _preload_content=False)


class Admissions(Watcher):
    """Sees every change of the Jobs: how each began, and how many were admitted at a time at the most."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.plane.batch.list_namespaced_job, place.namespace)
        self._admitted: set[str] = set()
        self.first: dict[str, Mapping[str, Any]] = {}
        """Each Job as it was at first."""
        self.most = 0

    def see(self, kind: str, found: Object) -> None:
        self.first.setdefault(found["metadata"]["name"], found)
        ends = {c["type"] for c in found.get("status", {}).get("conditions", []) if c["status"] == "True"}
        if kind == "DELETED" or found["spec"].get("suspend") or ends & {"Complete", "Failed"}:
            self._admitted.discard(found["metadata"]["uid"])
        else:
            self._admitted.add(found["metadata"]["uid"])
        self.most = max(self.most, len(self._admitted))


def of_another_team(namespace: str, name: str) -> dict[str, Any]:
    """A Job of somebody else's, as large as an attempt, in the LocalQueue `research`."""
    container = {
        "name": "main",
        "image": "localhost/none:1",
        "resources": {"requests": {"cpu": "350m", "memory": "64Mi", "ephemeral-storage": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    labels = {"kueue.x-k8s.io/queue-name": "research"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }
