"""Kueue for a control plane: what its release installs, with the controller as a plain process.

Without a node the API server reaches no Service, so Kueue's webhooks are called by address. All else is what
`kubectl apply -k` of its config/default gives: resources, rights, webhooks, certificates that it puts into
them itself (https://kueue.sigs.k8s.io/docs/installation/).
"""

import base64
import json
import signal
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from coding_agent_testbed.cluster import build, pki
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.cluster.control_plane import ControlPlane
from coding_agent_testbed.cluster.gomod import module_source
from coding_agent_testbed.cluster.network import LOOPBACK, free_ports
from coding_agent_testbed.cluster.parts import MODULES
from coding_agent_testbed.cluster.progress import step
from coding_agent_testbed.until import until

NAMESPACE = "kueue-system"
_ACCOUNT = "kueue-controller-manager"
_CONFIG = "controller_manager_config.yaml"
_SECRET = "kueue-webhook-server-cert"
# What takes a pod to be of use. An APIService that nobody serves keeps namespaces from being deleted.
_ONLY_WITH_A_NODE = ("Deployment", "Service", "APIService")
_READY_TIMEOUT_S = 150.0


class Kueue:
    """Kueue for one control plane; it ends with that."""

    def __init__(self, plane: ControlPlane, access: Access) -> None:
        self._plane = plane
        self._access = access
        self._folder = plane.folders.root / "kueue"
        self._webhook_port, self._health_port = free_ports(2)

    def up(self) -> None:
        """Install it, start it, and wait until it serves; it is built first where the cache lacks it.

        Raises:
            ClusterError: it could not be built, installed or started.
        """
        build.binaries(["kueue"])
        source = module_source(MODULES["kueue"]) / "config" / "default"
        with step("Kueue"):
            make_keys(self._folder)
            text = self._access.kubectl("kustomize", str(source))
            objects = [entry for entry in yaml.safe_load_all(text) if entry]
            (self._folder / _CONFIG).write_text(self._config(objects))
            self._access.apply(*installed(objects, self._webhook_port, secret_data(self._folder)))
            self._access.wait_until_established(*crds(objects))
            (self._folder / "kubeconfig").write_text(json.dumps(self._kubeconfig()))
            self.start()

    def start(self) -> None:
        """Start its controller, unless it runs, and wait until it serves."""
        arguments = [f"--kubeconfig={self._folder / 'kubeconfig'}", f"--config={self._folder / _CONFIG}"]
        binary = build.binaries(["kueue"])["kueue"]
        self._plane.launch_beside("kueue", [str(binary), *arguments, "--zap-log-level=2"])
        until(
            "Kueue ready",
            self._is_ready,
            timeout=_READY_TIMEOUT_S,
            alive=lambda: self._plane.processes.require("kueue"),
        )

    def kill(self) -> None:
        """End its controller as if by ``kill -9``; returns when it is gone."""
        self._plane.processes.stop("kueue", how=signal.SIGKILL, timeout=10)

    def log(self, lines: int = 50) -> str:
        """The end of its log."""
        return self._plane.processes.log_tail("kueue", lines)

    def _is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self._health_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)

    def _config(self, objects: Iterable[dict[str, Any]]) -> str:
        """Its configuration as shipped, but for addresses and what takes a node."""
        shipped = next(object_["data"][_CONFIG] for object_ in objects if _CONFIG in object_.get("data", {}))
        return yaml.safe_dump(
            yaml.safe_load(shipped)
            | {
                "namespace": NAMESPACE,
                "health": {"healthProbeBindAddress": f"{LOOPBACK}:{self._health_port}"},
                "metrics": {"bindAddress": "0"},
                "webhook": {"host": LOOPBACK, "port": self._webhook_port, "certDir": str(self._folder)},
                "leaderElection": {"leaderElect": False},
                "featureGates": {"VisibilityOnDemand": False},
            }
        )

    def _kubeconfig(self) -> dict[str, Any]:
        """With the rights that Kueue's own roles give."""
        kubectl = self._access.kubectl
        token = kubectl("-n", NAMESPACE, "create", "token", _ACCOUNT, "--duration=24h").strip()
        found: dict[str, Any] = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        found["users"][0]["user"] = {"token": token}
        return found


def make_keys(folder: Path) -> None:
    """An authority and a certificate such as Kueue makes for itself, but good for the loopback address too.

    Kueue keeps what it finds if the authority is called as here and its key is an RSA key in PKCS #1
    (open-policy-agent/cert-controller v0.16.0, `validCACert` and `buildArtifactsFromSecret`).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    pki.openssl(folder, "genrsa", "-out", "pkcs8.key", "2048")
    pki.openssl(folder, "rsa", "-traditional", "-in", "pkcs8.key", "-out", "ca.key")
    pki.openssl(
        folder,
        *("req", "-x509", "-new", "-sha256", "-days", "365", "-subj", "/CN=kueue-ca", "-key", "ca.key"),
        *("-addext", "subjectAltName=DNS:kueue-ca", "-out", "ca.crt"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
    )
    names = (f"DNS:kueue-webhook-service.{NAMESPACE}.svc", f"IP:{LOOPBACK}")
    pki.sign(folder, pki.Certificate("tls", "ca", "/CN=kueue-webhook-service", "serverAuth", names))


def secret_data(folder: Path) -> dict[str, str]:
    """The Secret's data: the four files of `make_keys`."""
    files = ("ca.crt", "ca.key", "tls.crt", "tls.key")
    return {name: base64.b64encode((folder / name).read_bytes()).decode() for name in files}


def crds(objects: Iterable[dict[str, Any]]) -> list[str]:
    """The names of its resources."""
    return [
        object_["metadata"]["name"] for object_ in objects if object_["kind"] == "CustomResourceDefinition"
    ]


def installed(
    objects: Iterable[dict[str, Any]], port: int, secret: dict[str, str]
) -> Iterable[dict[str, Any]]:
    """What is installed of its manifest; webhooks are called at this port of the loopback address."""
    for object_ in objects:
        if object_["kind"] in _ONLY_WITH_A_NODE:
            continue
        if object_["kind"] == "Secret" and object_["metadata"]["name"] == _SECRET:
            yield object_ | {"data": secret}
        elif object_["kind"] == "CustomResourceDefinition":
            yield _by_address(object_, [object_["spec"].get("conversion", {}).get("webhook", {})], port)
        elif "webhooks" in object_:
            yield _by_address(object_, object_["webhooks"], port)
        else:
            yield object_


def _by_address(found: dict[str, Any], webhooks: Iterable[dict[str, Any]], port: int) -> dict[str, Any]:
    for webhook in webhooks:
        if webhook:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://{LOOPBACK}:{port}{path}"}
    return found
