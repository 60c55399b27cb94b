"""What a trusted task's attempt leaves in the repository's cache, and who finds it, on a real volume."""

from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.cluster.cluster import Cluster

from tests.fixtures.system_in_pods import PodSystem, StartPods
from tests.integration.main_job.scripts import finish, run, script

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

_CLASS = "made-by-hand"
_CACHE = {"cache": {"enabled": True, "size": "1Gi", "storage_class": _CLASS}}
_KEEP = "mkdir -p $PIP_CACHE_DIR && id -u > $PIP_CACHE_DIR/mark && cat $PIP_CACHE_DIR/mark"
_LOOK = "cat $PIP_CACHE_DIR/mark && echo more > $PIP_CACHE_DIR/more && id -u"
_STRANGER = "cat $PIP_CACHE_DIR/mark; echo poison > $PIP_CACHE_DIR/mark; id -u; cat /proc/mounts"


def test_the_next_attempt_finds_it_and_a_stranger_cannot_change_it(
    start_pods: StartPods, own_cluster: Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    system = start_pods("github", script(run(_KEEP), finish()), job=_CACHE)
    volume(system, folder)
    try:
        system.put_label(1)
        system.wait_for_phase("Succeeded")
        assert (folder / "mirror" / "packs" / "manifest.json").is_file()
        user = (folder / "packages" / "pip" / "mark").read_text().strip()

        assert work(system, 2, _LOOK, trusted=True).split()[:2] == [user, user]
        assert (folder / "packages" / "pip" / "more").is_file()

        seen = work(system, 3, _STRANGER)
        assert user in seen
        assert user != next(line for line in seen.splitlines()[1:] if line.strip().isdigit())
        assert (folder / "packages" / "pip" / "mark").read_text().strip() == user
        [mounted] = [line for line in seen.splitlines() if " /var/cache/coding-agent " in line]
        assert str(folder) not in mounted
    finally:
        system.kubectl("delete", f"pv/{system.namespace}", "--wait=false")


def work(system: PodSystem, count: int, command: str, **spec: Any) -> str:
    """What the command of one more task says; the task is written by hand."""
    system.play(script(run(command), finish()))
    asked = len(system.model.requests)
    url = system.tasks()[0]["spec"]["url"]
    task = {
        "apiVersion": "coding-agent.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {"name": f"by-hand-{count}"},
        "spec": {"url": url, **spec},
    }
    system.apply(task)
    system.wait_for_phases("Succeeded", count=count)
    return str(system.model.requests[asked + 1]["messages"][-1]["content"])


def volume(system: PodSystem, folder: Path) -> None:
    """A volume that the cluster did not make, as an administrator creates it."""
    [node] = system.cluster.core.list_node(_request_timeout=10).items
    name = node.metadata.labels["kubernetes.io/hostname"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"},
        "storageClassName": _CLASS,
        "persistentVolumeReclaimPolicy": "Retain",
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    system.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": system.namespace}, "spec": spec}
    )
