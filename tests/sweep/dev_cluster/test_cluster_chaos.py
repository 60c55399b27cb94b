"""Any part of the cluster can be killed and comes back; containers and objects live on."""

import json

import pytest
from coding_agent_cluster.wait import until

from tests.e2e.pods import container, job, pod, python
from tests.fixtures.cluster import Chaos, ClusterUnderTest

# The first one starts the cluster, on a machine that does other things too.
pytestmark = [
    pytest.mark.needs_node,
    pytest.mark.needs_root,
    pytest.mark.needs_linux,
    pytest.mark.timeout(1500),
]

PARTS = [
    "kubelet",
    "kube-apiserver",
    "etcd",
    "containerd",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
]


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back_and_pods_live_on(
    cluster: ClusterUnderTest, chaos: Chaos, namespace: str, test_image: str, part: str
) -> None:
    sleeper = pod("sleeper", python(test_image, "import time; time.sleep(600)"))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(sleeper))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/sleeper", "--timeout=110s")
    before = cluster.get("-n", namespace, "pod", "sleeper")["status"]["containerStatuses"][0]
    old = chaos.pid(part)
    assert old is not None

    chaos.kill(part)
    assert chaos.pid(part) is None
    chaos.start(part)
    assert chaos.pid(part) not in (None, old)

    new = job("after", container(test_image))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(new))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", "job/after", "--timeout=110s")
    after = cluster.get("-n", namespace, "pod", "sleeper")["status"]["containerStatuses"][0]
    assert after["containerID"] == before["containerID"]
    assert after["restartCount"] == 0
    answer = cluster.kubectl("-n", namespace, "exec", "sleeper", "--", "python3", "-c", "print('here')")
    assert answer.strip() == "here"


def test_while_the_kubelet_is_dead_no_pod_starts(
    cluster: ClusterUnderTest, chaos: Chaos, namespace: str, test_image: str
) -> None:
    chaos.kill("kubelet")
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(job("late", container(test_image))))

    def scheduled() -> bool:
        pods = cluster.get("-n", namespace, "pods")["items"]
        return bool(pods) and pods[0]["spec"].get("nodeName") == "node1"

    until("scheduled", scheduled, timeout=90)
    assert cluster.get("-n", namespace, "pods")["items"][0]["status"]["phase"] == "Pending"
    chaos.start("kubelet")
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", "job/late", "--timeout=110s")
