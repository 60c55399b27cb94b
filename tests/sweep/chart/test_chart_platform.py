"""A platform team's operator and Gateway serve another team's namespace: label in, merge request out."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.cluster import cluster as local
from coding_agent_testbed.cluster import ingress
from coding_agent_testbed.cluster.access import KubectlError
from coding_agent_testbed.until import until

from tests.chart.edge import HOST, TLS_SECRET, Edge, certificate, forwarder
from tests.chart.place import node_values, place
from tests.chart.release import Release
from tests.e2e.test_chart_label_to_change import wait_for_the_change
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT, REPOSITORY, SECRET, over
from tests.fixtures.system_in_pods import SMALL
from tests.integration.main_job.scripts import fixes_the_bug

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

GATEWAY = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": ingress.GATEWAY},
    "spec": {
        "gatewayClassName": ingress.GATEWAY_CLASS,
        "listeners": [
            {
                "name": "https",
                "protocol": "HTTPS",
                "port": 443,
                "tls": {"certificateRefs": [{"name": TLS_SECRET}]},
                "allowedRoutes": {"namespaces": {"from": "All"}},
            }
        ],
    },
}


@pytest.fixture
def gateway(own_cluster: local.Cluster, tmp_path: Path) -> Iterator[Edge]:
    """A Gateway for all namespaces, where TLS ends; in its own namespace, with the certificate."""
    ingress.enable(own_cluster)
    edge = Edge(own_cluster.network.address, certificate(tmp_path), ingress.GATEWAY_HTTPS_PORT)
    kubectl, home = own_cluster.access.kubectl, ingress.GATEWAY_NAMESPACE
    kubectl("create", "namespace", home)
    try:
        files = (f"--cert={edge.certificate}", f"--key={edge.key}")
        kubectl("-n", home, "create", "secret", "tls", TLS_SECRET, *files)
        kubectl("-n", home, "apply", "-f", "-", stdin=json.dumps(GATEWAY))
        yield edge
    finally:
        kubectl("delete", "namespace", home, "--timeout=110s")  # then Ingresses are served again


def conditions(team: Release) -> list[dict[str, str]]:
    """What each Gateway says of the team's route; it may say so after it leads there."""
    parents = team.get("httproute", team.name).get("status", {}).get("parents", [])
    return [{entry["type"]: entry["status"] for entry in parent["conditions"]} for parent in parents]


def test_one_operator_and_one_gateway_for_the_namespace_of_another_team(
    cluster: ClusterUnderTest,
    namespace: str,
    new_namespace: Callable[[str], str],
    project_images: dict[str, str],
    enforced_policies: None,
    gateway: Edge,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        scripts = fixes_the_bug()
        world = place(stack, cluster, namespace, project_images, tmp_path, "gitlab", scripts)
        team, home = world.release, new_namespace("restricted")
        values: dict[str, Any] = {
            "operator": {"namespaces": [namespace]},
            "receiver": {"enabled": False},
            "reporter": {"enabled": False},
            # The names of the team's Secrets: values that are never used here.
            "secrets": {"gitlab": {"token": "never-used"}, "model": {"apiKey": "never-used"}},
            "config": {"gitlab": {"api_url": world.forge.api_url}, "operator": {"job": SMALL}},
        }
        platform = Release(cluster, home, over(node_values(project_images), values))
        platform.take_crd()
        platform.install(None, "--wait", "--timeout", "180s")
        own = {"operator": {"enabled": False}, "crds": {"install": False}}
        parent = {"namespace": ingress.GATEWAY_NAMESPACE, "name": ingress.GATEWAY}
        route = {"httpRoute": {"enabled": True, "hostnames": [HOST], "parentRefs": [parent]}}
        team.install(over(own, route), "--wait", "--timeout", "180s")
        programs = {item["metadata"]["name"] for item in team.get("deployments")["items"]}
        assert programs == {"coding-agent-receiver", "coding-agent-reporter"}

        gateway.wait("/webhook/gitlab")

        def accepted() -> bool:
            if (told := conditions(team)) != [{"Accepted": "True", "ResolvedRefs": "True"}]:
                raise ValueError(f"the route's status: {told}")
            return True

        until("the Gateway has taken the route", accepted, timeout=60)
        with gateway.client() as client:
            assert gateway.post(client, "/readyz", b"", {}).status_code == 404, "is not led to"
        hook = stack.enter_context(forwarder(gateway))
        world.forge.add_hook(REPOSITORY, f"{hook}/webhook/gitlab", SECRET)
        world.forge.add_label(REPOSITORY, 1, BOT)
        task = wait_for_the_change(world)
        assert task["spec"]["trigger"]["origin"] == "webhook"
        assert platform.tasks() == []
        holder = team.get("lease", "coding-agent-operator")["spec"]["holderIdentity"]
        assert holder.startswith(f"{home}/")
        question = (
            "auth",
            "can-i",
            "list",
            "agenttasks",
            f"--as=system:serviceaccount:{home}:coding-agent-operator",
        )
        assert team.kubectl(*question).strip() == "yes"
        with pytest.raises(KubectlError):  # kubectl's exit status says no
            cluster.kubectl("-n", "default", *question)
