"""Thousands of pods without a machine for them: fake nodes beside a control plane."""

import json

import pytest
from coding_agent_cluster import fake_nodes
from coding_agent_cluster.errors import ClusterError

from tests.fixtures.cluster import PlaneUnderTest

CONTAINER = {
    "name": "main",
    "image": "localhost/none:1",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


@pytest.mark.timeout(600)  # kwok and the scheduler may have to be built first
def test_a_job_with_hundreds_of_pods_completes_on_fake_nodes(
    control_plane_with_fake_nodes: PlaneUnderTest, namespace: str
) -> None:
    plane = control_plane_with_fake_nodes
    pod = {"restartPolicy": "Never", "containers": [CONTAINER]} | fake_nodes.POD_PLACEMENT
    spec = {"completions": 300, "parallelism": 300, "template": {"spec": pod}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "many"}, "spec": spec}
    plane.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(job))
    complete = ("wait", "--for=condition=Complete", "job/many", "--timeout=300s")
    plane.kubectl("-n", namespace, *complete, timeout=320)
    pods = plane.core.list_namespaced_pod(namespace).items
    assert len(pods) == 300
    assert {p.spec.node_name for p in pods} == {"fake-0", "fake-1", "fake-2"}


def test_without_a_scheduler_fake_nodes_are_refused_with_the_fix(control_plane: PlaneUnderTest) -> None:
    with pytest.raises(ClusterError, match="--scheduler"):
        fake_nodes.add(control_plane.plane, control_plane, 1)
