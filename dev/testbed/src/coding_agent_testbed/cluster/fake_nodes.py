"""Thousands of pods without a machine for them: kwok plays their nodes (https://kwok.sigs.k8s.io).

Pods on fake nodes become Ready at once, and those of Jobs succeed at once (unless `HOLD` holds them); nothing
runs.
"""

from pathlib import Path
from typing import Any

import yaml

from coding_agent_testbed.cluster import build
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.cluster.control_plane import ControlPlane
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.gomod import module_source
from coding_agent_testbed.cluster.parts import MODULES
from coding_agent_testbed.cluster.progress import step

# How a fake node or pod goes from one state to the next; the plain program has none of its own.
_STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
)
_ANNOTATION = "kwok.x-k8s.io/node"
HOLD = "coding-agent.dev/hold"
"""A Job's pod with this annotation runs until it is taken away."""

# What a pod's spec needs to run on a fake node and nowhere else.
POD_PLACEMENT: dict[str, Any] = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": _ANNOTATION, "operator": "Exists"}],
}


def fake_node(number: int) -> dict[str, Any]:
    """A node that kwok plays: large, and tainted so that only pods made for it land there."""
    name = f"fake-{number}"
    size = {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "1000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {_ANNOTATION: "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
        "spec": {"taints": [{"key": _ANNOTATION, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": size, "capacity": size},
    }


def stages(folder: Path) -> str:
    """The stages' file, from kwok's own."""
    found = {file: yaml.safe_load((folder / file).read_text()) for file in _STAGES}
    complete = found["pod/fast/pod-complete.yaml"]["spec"]["selector"]["matchExpressions"]
    complete.append({"key": f'.metadata.annotations["{HOLD}"]', "operator": "DoesNotExist"})
    return yaml.safe_dump_all(found.values())


def add(plane: ControlPlane, access: Access, count: int) -> None:
    """Start kwok for the control plane, unless it runs, and wait for ``count`` fake nodes to be Ready.

    Raises:
        ClusterError: the control plane has no scheduler, so that no pod would ever get to a node.
    """
    if "kube-scheduler" not in plane.names:
        raise ClusterError("fake nodes need a scheduler: start the control plane with one (--scheduler)")
    binary = build.binaries(["kwok"])["kwok"]
    config = plane.folders.root / "kwok.yaml"
    config.write_text(stages(module_source(MODULES["kwok"]) / "kustomize" / "stage"))
    with step(f"{count} fake nodes"):
        plane.launch_beside(
            "kwok",
            [
                str(binary),
                f"--kubeconfig={plane.kubeconfig}",
                f"--config={config}",
                f"--manage-nodes-with-annotation-selector={_ANNOTATION}=fake",
                "--node-lease-duration-seconds=40",
            ],
        )
        access.apply(*(fake_node(n) for n in range(count)))
        access.kubectl("wait", "--for=condition=Ready", "node", "-l", "type=kwok", "--timeout=110s")
