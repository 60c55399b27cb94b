"""Ingress with TLS: Contour tells Envoy what the cluster's Ingress objects say (https://projectcontour.io).

Both run inside the sandbox as plain processes; Envoy serves ports 80 and 443 of the node's address.

Contour serves the Gateway API too, for one Gateway, as long as it is there: Envoy then serves its listeners,
each on its port plus 8000, and nothing on ports 80 and 443 (``toContainerPort`` and ``ListenerProcessor`` in
Contour's source).
"""

import json
import re
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster import build, envoy
from coding_agent_testbed.cluster.cluster import Cluster
from coding_agent_testbed.cluster.gomod import module_source
from coding_agent_testbed.cluster.network import LOOPBACK
from coding_agent_testbed.cluster.parts import MODULES
from coding_agent_testbed.cluster.pki import NODE_NAME
from coding_agent_testbed.cluster.progress import step

_CONTROL_PORT = 8001
GATEWAY_NAMESPACE = GATEWAY = "public"
"""The one Gateway that is served: whoever needs it makes it, with this name in this namespace."""
GATEWAY_CLASS = "contour"
GATEWAY_HTTPS_PORT = 8443
"""Port of the node's address at which the Gateway's port 443 is served."""
_GATEWAY_KINDS = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
_OTHER_ROUTES = ("tlsroutes", "grpcroutes", "tcproutes", "backendtlspolicies")


def ingress_class() -> dict[str, Any]:
    """The class that an Ingress without one gets."""
    default = {"ingressclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "contour", "annotations": default},
        "spec": {"controller": "projectcontour.io/ingress-controller"},
    }


def gateway_class() -> dict[str, Any]:
    """The class of the Gateway that Contour serves."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": GATEWAY_CLASS},
        "spec": {"controllerName": "projectcontour.io/gateway-controller"},
    }


def gateway_crds(everything: str) -> str:
    """The CRDs of the Gateway API that Contour watches, taken from the stream of all, which is large."""
    name = re.compile(rf"^  name: ({'|'.join(_GATEWAY_KINDS)})\.gateway\.networking\.k8s\.io$", re.MULTILINE)
    return "\n---\n".join(part for part in everything.split("\n---\n") if name.search(part))


def contour_command(contour: Path, kubeconfig: Path, config: Path, address: str) -> list[str]:
    """Contour, for an Envoy on ``address``; its own ports are moved off each other."""
    return [
        *(str(contour), "serve", f"--config-path={config}"),
        *(f"--kubeconfig={kubeconfig}", "--no-incluster"),
        *(f"--disable-feature={route}" for route in _OTHER_ROUTES),
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
    """Serve Ingress objects and the Gateway from now on; builds and installs what the cache lacks.

    That an Ingress or a route is served takes a moment after it is made: wait until it answers.
    """
    contour, proxy = build.binaries(["contour"])["contour"], envoy.binary()
    kubectl = cluster.access.kubectl
    with step("ingress controller"):
        examples = module_source(MODULES["contour"]) / "examples"
        resources = (examples / "contour" / "01-crds.yaml").read_text()
        resources += "\n---\n" + gateway_crds((examples / "gateway" / "00-crds.yaml").read_text())
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=resources)
        # Contour ends when it starts before its own resources are served.
        # Of definitions, nothing but their own names is indented by two.
        cluster.access.wait_until_established(*re.findall(r"^  name: (\S+)$", resources, re.MULTILINE))
        cluster.access.apply(ingress_class(), gateway_class())
        folder = cluster.root / "envoy"
        folder.mkdir(exist_ok=True)
        config = folder / "contour.yaml"
        served = {"gatewayRef": {"namespace": GATEWAY_NAMESPACE, "name": GATEWAY}}
        config.write_text(json.dumps({"gateway": served}))
        bootstrap = folder / "bootstrap.json"
        cluster.plane.run_inside(
            [
                *(str(contour), "bootstrap", str(bootstrap), f"--resources-dir={folder}/resources"),
                *(f"--xds-address={LOOPBACK}", f"--xds-port={_CONTROL_PORT}"),
                "--admin-address=/run/coding-agent/envoy-admin.sock",
            ]
        )
        launch = cluster.plane.launch_beside
        launch("contour", contour_command(contour, cluster.kubeconfig, config, cluster.network.address))
        names = ["--service-cluster", "coding-agent", "--service-node", NODE_NAME]
        quiet = ["--log-level", "warning", "--concurrency", "1"]
        launch("envoy", [str(proxy), "--config-path", str(bootstrap), *names, *quiet])
