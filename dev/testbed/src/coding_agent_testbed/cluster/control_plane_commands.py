"""The command lines of the control plane's parts: pure functions of the folders and addresses.

The binaries are named without a path; whoever starts them knows where they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster.network import LOOPBACK, Network

ISSUER = "https://kubernetes.default.svc.cluster.local"

# The default of 20 requests a second makes some nine pods a second and takes six seconds for the
# controllers' own service accounts alone.
_CLIENT_RATE = ["--kube-api-qps=300", "--kube-api-burst=500"]


@dataclass(frozen=True)
class Folders:
    """The state folder of one cluster and what is where in it."""

    root: Path

    @property
    def pki(self) -> Path:
        """Keys, certificates, kubeconfigs; kept when the cluster goes down."""
        return self.root / "pki"

    @property
    def etcd(self) -> Path:
        """The data of etcd."""
        return self.root / "etcd"

    @property
    def logs(self) -> Path:
        """A log for each process, and the audit log."""
        return self.root / "logs"

    @property
    def audit_log(self) -> Path:
        """What the API server was asked, by whom: one JSON object a line; with what, as the policy says."""
        return self.logs / "audit.jsonl"

    @property
    def audit_policy(self) -> Path:
        """The policy of the audit log."""
        return self.root / "audit-policy.yaml"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.pki / "admin.kubeconfig"


def audit_policy(bodies: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Log who did what to which object when done; skip reads of health and leases, which would drown it.

    Args:
        bodies: resources whose writes are logged with the bodies of request and answer, by API group.
    """
    written = [{"group": group, "resources": list(names)} for group, names in (bodies or {}).items()]
    with_bodies = {
        "level": "RequestResponse",
        "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        "resources": written,
    }
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            *([with_bodies] if written else []),
            {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/openapi*"]},
            {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
            {"level": "Metadata"},
        ],
    }


def etcd(folders: Folders, network: Network) -> list[str]:
    """Etcd without fsync: what a killed process wrote survives, what a lost machine wrote need not."""
    peer = f"http://{LOOPBACK}:{network.etcd_peer_port}"
    return [
        "etcd",
        "--name=etcd",
        f"--data-dir={folders.etcd}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={network.etcd_url}",
        f"--advertise-client-urls={network.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=etcd={peer}",
        "--log-level=warn",
    ]


def api_server(folders: Folders, network: Network) -> list[str]:
    """The API server: TLS, Node and RBAC authorization, no anonymous access, Pod Security, audit log.

    Pod Security admission is on by default in Kubernetes and acts on the labels of each namespace.
    """
    pki = folders.pki
    command = [
        "kube-apiserver",
        f"--advertise-address={network.address}",
        f"--bind-address={network.address}",
        f"--secure-port={network.api_port}",
        f"--etcd-servers={network.etcd_url}",
        f"--service-cluster-ip-range={network.services}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        "--authorization-mode=Node,RBAC",
        "--anonymous-auth=false",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--enable-aggregator-routing=true",
        f"--audit-policy-file={folders.audit_policy}",
        f"--audit-log-path={folders.audit_log}",
    ]
    if network.slot is None:
        # An endpoint of the service "kubernetes" must not be a loopback address (API validation).
        command.append("--endpoint-reconciler-type=none")
    return command


def controller_manager(folders: Folders, network: Network) -> list[str]:
    """The controller manager: garbage collection, Jobs, service accounts, each with its own credentials."""
    pki = folders.pki
    command = [
        "kube-controller-manager",
        *_own_kubeconfig(folders, "kube-controller-manager"),
        *_serving(network),
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        "--use-service-account-credentials=true",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--leader-elect=false",
        # It makes this folder, wherever it is; the default is one of the whole machine's.
        f"--flex-volume-plugin-dir={folders.root}/volume-plugins",
        "--horizontal-pod-autoscaler-sync-period=5s",
        *_CLIENT_RATE,
    ]
    if network.slot is None:
        # Without nodes every pod is unscheduled. Within 20 seconds this controller would mark a pod as
        # Failed that a test keeps while it is being deleted.
        command.append("--controllers=*,-pod-garbage-collector-controller")
    return command


def scheduler(folders: Folders, network: Network) -> list[str]:
    """The scheduler."""
    return [
        "kube-scheduler",
        *_own_kubeconfig(folders, "kube-scheduler"),
        *_serving(network),
        "--leader-elect=false",
        *_CLIENT_RATE,
    ]


COMMANDS = {
    "etcd": etcd,
    "kube-apiserver": api_server,
    "kube-controller-manager": controller_manager,
    "kube-scheduler": scheduler,
}


def _own_kubeconfig(folders: Folders, name: str) -> list[str]:
    file = folders.pki / f"{name}.kubeconfig"
    return [f"--{role}kubeconfig={file}" for role in ("", "authentication-", "authorization-")]


def _serving(network: Network) -> list[str]:
    """Health and metrics: on the node's own loopback interface; nowhere for planes that share a machine's."""
    return ["--secure-port=0"] if network.slot is None else [f"--bind-address={LOOPBACK}"]
