"""Ingress with TLS: Contour tells Envoy what the cluster's Ingress objects say (https://projectcontour.io).

Both run inside the sandbox as plain processes; Envoy serves ports 80 and 443 of the node's address.
"""

from pathlib import Path
from typing import Any

from coding_agent_cluster import build, envoy
from coding_agent_cluster.cluster import Cluster
from coding_agent_cluster.gomod import module_source
from coding_agent_cluster.network import LOOPBACK
from coding_agent_cluster.parts import MODULES
from coding_agent_cluster.pki import NODE_NAME
from coding_agent_cluster.progress import step

_CONTROL_PORT = 8001


def ingress_class() -> dict[str, Any]:
    """The class that an Ingress without one gets."""
    default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "contour", "annotations": default},
        "spec": {"controller": "projectcontour.io/ingress-controller"},
    }


def contour_command(contour: Path, kubeconfig: Path, address: str) -> list[str]:
    """Contour, for an Envoy on ``address``; its own ports are moved off each other."""
    return [
        *(str(contour), "serve", f"--kubeconfig={kubeconfig}", "--no-incluster"),
        *("--disable-leader-election", "--insecure"),
        *(f"--xds-address={LOOPBACK}", f"--xds-port={_CONTROL_PORT}"),
        *(f"--http-address={LOOPBACK}", "--http-port=8003"),
        *(f"--health-address={LOOPBACK}", "--health-port=8004"),
        f"--debug-http-address={LOOPBACK}",
        *(f"--envoy-service-http-address={address}", "--envoy-service-http-port=80"),
        *(f"--envoy-service-https-address={address}", "--envoy-service-https-port=443"),
        f"--ingress-status-address={address}",
    ]


def enable(cluster: Cluster) -> None:
    """Serve Ingress objects from now on; builds and installs what the cache lacks.

    That an Ingress is served takes a moment after it is made: wait until it answers.
    """
    contour, proxy = build.binaries(["contour"])["contour"], envoy.binary()
    kubectl = cluster.access.kubectl
    with step("ingress controller"):
        resources = module_source(MODULES["contour"]) / "examples" / "contour" / "01-crds.yaml"
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(resources))
        # Contour ends when it starts before its own resources are served.
        kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(resources))
        cluster.access.apply(ingress_class())
        folder = cluster.root / "envoy"
        folder.mkdir(exist_ok=True)
        bootstrap = folder / "bootstrap.json"
        cluster.plane.run_inside(
            [
                *(str(contour), "bootstrap", str(bootstrap), f"--resources-dir={folder}/resources"),
                *(f"--xds-address={LOOPBACK}", f"--xds-port={_CONTROL_PORT}"),
                "--admin-address=/run/coding-agent/envoy-admin.sock",
            ]
        )
        launch = cluster.plane.launch_beside
        launch("contour", contour_command(contour, cluster.kubeconfig, cluster.network.address))
        names = ["--service-cluster", "coding-agent", "--service-node", NODE_NAME]
        quiet = ["--log-level", "warning", "--concurrency", "1"]
        launch("envoy", [str(proxy), "--config-path", str(bootstrap), *names, *quiet])
