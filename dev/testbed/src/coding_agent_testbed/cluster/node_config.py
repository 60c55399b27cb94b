"""The configuration files of the node's parts: pure functions of folders and addresses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster import paths
from coding_agent_testbed.cluster.network import LOOPBACK, Network

PAUSE_IMAGE = "localhost/pause:1"
GVISOR_HANDLER = "runsc"
"""containerd's name for gVisor, which a RuntimeClass names."""


@dataclass(frozen=True)
class NodeFolders:
    """Where the node's parts keep things: below ``root``, but for sockets."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration files."""
        return self.root / "config"

    @property
    def containerd(self) -> Path:
        """Images and snapshots; kept when the cluster goes down."""
        return self.root / "containerd"

    @property
    def kubelet(self) -> Path:
        """The kubelet's state and the pods' volumes."""
        return self.root / "kubelet"

    @property
    def pod_logs(self) -> Path:
        """The containers' logs."""
        return self.root / "pod-logs"

    @property
    def addresses(self) -> Path:
        """Which pod has which address (host-local)."""
        return self.root / "cni-addresses"

    @property
    def pki(self) -> Path:
        """The keys that the control plane made."""
        return self.root / "pki"

    @property
    def registries(self) -> Path:
        """Of each registry that images are pulled from, HOST:PORT/hosts.toml."""
        return self.config / "registries"

    @property
    def image_verifiers(self) -> Path:
        """Programs that must all agree to an image before it is pulled."""
        return self.config / "image-verifiers"

    @property
    def gvisor(self) -> Path:
        """The configuration of gVisor's shim; containerd knows the runtime while this file exists."""
        return self.config / "runsc.toml"

    @property
    def gvisor_shim(self) -> Path:
        """The program that containerd starts for gVisor."""
        return self.config / "containerd-shim-runsc-v1"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return paths.SOCKETS / "containerd.sock"


def kubelet(folders: NodeFolders, network: Network, cgroup: str) -> dict[str, Any]:
    """The kubelet: authentication and authorization as in production, evictions early enough to be seen.

    Control groups of version 1 and swap are tolerated, since the machine is not ours to change.
    """
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "containerRuntimeEndpoint": f"unix://{folders.containerd_socket}",
        "address": network.address,
        "healthzBindAddress": LOOPBACK,
        "tlsCertFile": f"{folders.pki}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{folders.pki}/kubelet-server.key",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{folders.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [network.dns_service],
        "resolvConf": f"{folders.config}/resolv.conf",
        "failSwapOn": False,
        # Images come from archives only: one that was collected would be gone for good.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # An emptyDir over its limit is noticed when its volume is measured: every minute by default.
        "volumeStatsAggPeriod": "5s",
        "podLogsDir": str(folders.pod_logs),
        "volumePluginDir": f"{folders.kubelet}/volumeplugins",
    }


def kube_proxy(folders: NodeFolders, network: Network) -> dict[str, Any]:
    """Service addresses by iptables; the connection table's size is the machine's, so it is left alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": network.pods,
        "bindAddress": network.address,
        "healthzBindAddress": f"{LOOPBACK}:10256",
        "metricsBindAddress": f"{LOOPBACK}:10249",
        "clientConnection": {"kubeconfig": f"{folders.pki}/kube-proxy.kubeconfig"},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "iptables": {"syncPeriod": "10s", "minSyncPeriod": "0s"},
    }


def cni(folders: NodeFolders, network: Network) -> dict[str, Any]:
    """Each pod on a cable of its own, routed: every packet between pods passes the node's firewall.

    (On a bridge it would only where the kernel has br_netfilter, without which a service address whose pod
    is on the same bridge does not answer, and no NetworkPolicy could be enforced.)
    """
    return {
        "cniVersion": "1.0.0",
        "name": "coding-agent",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folders.addresses),
                    "ranges": [[{"subnet": network.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def containerd(folders: NodeFolders, runc: Path, cni_binaries: Path) -> str:
    """containerd with runc, and with gVisor if the node has it.

    Images are pulled only from where the node's network reaches: this machine.

    containerd reads both folders at each pull (its docs/hosts.md and docs/image-verification.md), so they may
    be filled while it runs.

    ``restrict_oom_score_adj``: root without CAP_SYS_RESOURCE may not lower the score below its own, and runc
    then refuses to start a container.
    """
    return f"""\
version = 3
root = "{folders.containerd}"
state = "{paths.SOCKETS}/containerd"
[grpc]
  address = "{folders.containerd_socket}"
[ttrpc]
  address = "{folders.containerd_socket}.ttrpc"
[plugins.'io.containerd.internal.v1.opt']
  path = "{folders.containerd}/opt"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE_IMAGE}"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = "{folders.registries}"
[plugins.'io.containerd.image-verifier.v1.bindir']
  bin_dir = "{folders.image_verifiers}"
  per_verifier_timeout = "60s"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{cni_binaries}"]
    conf_dir = "{folders.config}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
{_runsc(folders) if folders.gvisor.exists() else ""}"""


def _runsc(folders: NodeFolders) -> str:
    return f"""\
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{GVISOR_HANDLER}]
    runtime_type = "io.containerd.runsc.v1"
    runtime_path = "{folders.gvisor_shim}"
    pod_annotations = ["dev.gvisor.*"]
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{GVISOR_HANDLER}.options]
      TypeUrl = "io.containerd.runsc.v1.options"
      ConfigPath = "{folders.gvisor}"
"""


def gvisor_shim(binary: Path, pods: Path) -> str:
    """A script that starts the shim for a kubelet whose pods have their volumes in `pods`."""
    return f'#!/bin/sh\nKUBELET_PODS="{pods}" exec "{binary}" "$@"\n'


def runsc(binary: Path, state: Path) -> str:
    """The configuration of gVisor's shim (https://gvisor.dev/docs/user_guide/containerd/configuration/).

    systrap needs neither hardware for virtual machines nor ptrace.
    """
    return f"""\
binary_name = "{binary}"
root = "{state}"
[runsc_config]
  platform = "systrap"
"""
