"""Pods find each other by name and by service address, reach nothing outside, and NetworkPolicy holds."""

import json
import urllib.request
from collections.abc import Mapping

import pytest
from coding_agent_cluster import cluster as local
from coding_agent_cluster import metrics_server, sandbox
from coding_agent_cluster.commands import run
from coding_agent_cluster.wait import until

from tests.e2e.pods import FETCH, pod, python, server
from tests.fixtures.cluster import ClusterUnderTest

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]


class Web:
    """A server `web` and two clients, `friend` and `stranger`, in the test's namespace."""

    def __init__(self, cluster: ClusterUnderTest, namespace: str, image: str) -> None:
        self._cluster, self.namespace = cluster, namespace
        sleep = python(image, "import time; time.sleep(600)")
        self.apply(*server("web", image), pod("friend", sleep), pod("stranger", sleep))
        ready = ["wait", "--for=condition=Ready", "pod", "--all", "--timeout=110s"]
        cluster.kubectl("-n", namespace, *ready)
        # That a pod is Ready travels through an endpoint slice and kube-proxy to the firewall.
        self.wait_until_answered("friend")

    def apply(self, *objects: dict[str, object]) -> None:
        listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self._cluster.kubectl("-n", self.namespace, "apply", "-f", "-", stdin=listing)

    @property
    def address(self) -> str:
        return str(self._cluster.get("-n", self.namespace, "service", "web")["spec"]["clusterIP"])

    def fetch(self, client: str, *urls: str) -> list[str]:
        command = ["exec", client, "--", "python3", "-c", FETCH, *urls]
        return self._cluster.kubectl("-n", self.namespace, *command).splitlines()

    def answers(self, client: str) -> bool:
        return self.fetch(client, "http://web/")[0].startswith("hello")

    def wait_until_answered(self, client: str) -> None:
        """A fetch has two seconds, which may not be enough on a busy machine: then it is tried again."""
        until(f"{client} is answered", lambda: self.answers(client), timeout=120, interval=0.2)


@pytest.fixture
def web(cluster: ClusterUnderTest, namespace: str, test_image: str) -> Web:
    return Web(cluster, namespace, test_image)


def test_a_service_is_reached_by_name_and_by_address(web: Web) -> None:
    names = ["web", f"web.{web.namespace}", f"web.{web.namespace}.svc.cluster.local", web.address]

    def answered() -> bool:
        answers = web.fetch("friend", *(f"http://{name}/" for name in names))
        assert len(answers) == len(names)
        if not all(answer.startswith("hello from web") for answer in answers):
            raise ValueError(f"answered: {answers}")
        return True

    until("all names are answered", answered, timeout=120, interval=0.2)


def test_a_pod_reaches_its_own_service(web: Web) -> None:
    # By address: in a pod its own name is its own address, not the service's.
    address = f"http://{web.address}/"
    until("its answer", lambda: web.fetch("web", address)[0].startswith("hello from web"), timeout=120)


def test_an_unknown_name_is_refused_at_once(web: Web) -> None:
    (answer,) = web.fetch("friend", "http://nothing.example.invalid/")
    assert answer.startswith("refused")
    assert "timed out" not in answer


def test_the_test_itself_reaches_a_service(own_cluster: local.Cluster, web: Web) -> None:
    address = f"http://{web.address}/"
    answer = until("its answer", lambda: urllib.request.urlopen(address, timeout=5).read(), timeout=120)
    assert answer.decode().startswith("hello from web")


def test_the_internet_is_not_there(own_cluster: local.Cluster) -> None:
    routes = run([*sandbox.enter(own_cluster.processes), "ip", "route"])
    assert "default" not in routes
    assert own_cluster.network.pods.rsplit(".", 1)[0] in routes, "the command shows the routes of the node"


def test_no_pod_of_the_cluster_itself_is_starved_by_others(
    own_cluster: local.Cluster, enforced_policies: None
) -> None:
    """All pods without a CPU request share a weight of 2; a request of 100m is a weight of about 100."""
    metrics_server.enable(own_cluster)
    pods = own_cluster.access.get("-n", "kube-system", "pods")["items"]
    classes = {pod["metadata"]["name"]: pod["status"]["qosClass"] for pod in pods}
    assert len(classes) >= 3
    assert set(classes.values()) == {"Burstable"}, classes


def policy(name: str, spec: Mapping[str, object]) -> dict[str, object]:
    api = "networking.k8s.io/v1"
    return {"apiVersion": api, "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec}


def test_a_network_policy_for_ingress_is_enforced(enforced_policies: None, web: Web) -> None:
    web.wait_until_answered("friend")
    web.wait_until_answered("stranger")
    peer = {"podSelector": {"matchLabels": {"app": "friend"}}}
    rule = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [peer]}]}
    web.apply(policy("only-friend", rule))
    until("stranger refused", lambda: not web.answers("stranger"), timeout=120, interval=0.2)
    web.wait_until_answered("friend")


def test_a_network_policy_for_egress_is_enforced(enforced_policies: None, web: Web) -> None:
    """As the attempt's pod has it: everything is denied but DNS and what is named."""
    web.wait_until_answered("friend")
    dns = {
        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
        "ports": [{"protocol": "UDP", "port": 53}],
    }
    friend = {"matchLabels": {"app": "friend"}}
    web.apply(policy("dns-only", {"podSelector": friend, "policyTypes": ["Egress"], "egress": [dns]}))
    until("friend refused", lambda: not web.answers("friend"), timeout=120, interval=0.2)
    resolve = "import socket; print(socket.gethostbyname('web'))"
    command = ["exec", "friend", "--", "python3", "-c", resolve]
    assert web._cluster.kubectl("-n", web.namespace, *command).strip() == web.address
    web.wait_until_answered("stranger")
    to_web = {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
    both = {"podSelector": friend, "policyTypes": ["Egress"], "egress": [dns, to_web]}
    web.apply(policy("dns-only", both))
    until("friend let through", lambda: web.answers("friend"), timeout=120, interval=0.2)
