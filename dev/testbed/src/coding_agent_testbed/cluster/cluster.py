"""A whole cluster: control plane and node inside a sandbox, with DNS; up, down, and its parts by name."""

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from coding_agent_testbed.cluster import (
    apt,
    build,
    cgroups,
    images,
    parts,
    paths,
    sandbox,
    state,
    system_images,
)
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.cluster.control_plane import ControlPlane
from coding_agent_testbed.cluster.errors import ClusterError, MachineError
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.manifests import manifest
from coding_agent_testbed.cluster.network import SLOTS, Network, node_network
from coding_agent_testbed.cluster.node import NAMES as NODE_NAMES
from coding_agent_testbed.cluster.node import Node
from coding_agent_testbed.cluster.node_config import NodeFolders
from coding_agent_testbed.cluster.processes import Processes
from coding_agent_testbed.cluster.progress import step

DEFAULT_NAME = "coding-agent"
PLANE_NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_PROGRAMS = {"ip": "iproute2", "iptables": "iptables", "unshare": "util-linux", "mount": "mount"}


class Cluster:
    """The cluster ``name`` on ``network``; make one with ``up`` or ``find``.

    ``binaries`` says where each part is; who only ends a cluster needs none, and must not have to build any.
    ``audit_bodies`` is as for ``ControlPlane``.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        binaries: Mapping[str, Path],
        *,
        audit_bodies: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name = name
        self._audit_bodies = audit_bodies
        self.network = network
        self.root = paths.clusters_root() / name
        self.binaries = binaries
        self.processes = Processes(self.root)
        self._folders = NodeFolders(self.root)
        self.plane = self._plane()
        self.node = Node(name, self._folders, network, self.processes, self.plane.api, self.binaries)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.plane.kubeconfig

    @property
    def access(self) -> Access:
        """Ways to use the cluster."""
        return Access(self.kubeconfig, self.binaries["kubectl"])

    def start(self, name: str) -> None:
        """Start one part, unless it runs, and wait until the cluster is ready again.

        Raises:
            NotReadyError: it is not, in time.
        """
        (self._plane() if name in PLANE_NAMES else self.node).start(name)

    def kill(self, name: str) -> None:
        """End one part as if by ``kill -9``; returns when it is gone.

        Raises:
            ClusterError: there is no such part.
        """
        if name not in (*PLANE_NAMES, *NODE_NAMES):
            raise ClusterError(f"no part {name!r}; the parts are: {', '.join((*PLANE_NAMES, *NODE_NAMES))}")
        (self.plane if name in PLANE_NAMES else self.node).kill(name)

    def provide(self, image: images.Image) -> None:
        """Build an image and give it to the node.

        Raises:
            ClusterError: a step of its Dockerfile failed.
        """

        def hand_over(layout: Path) -> None:
            with step(f"hand {image.name} to the node"):
                self.node.import_built(layout, image.name)

        images.make(image, hand_over)

    def whole(self) -> None:
        """Start whatever does not run, and wait until all is ready."""
        with step("sandbox"):
            if not sandbox.is_up(self.processes):
                # Pods and objects of a sandbox that is gone would come back as ghosts.
                self._forget()
                sandbox.remove_cable(self.network)
                sandbox.up(self.processes, self.network)
        self.plane = self._plane()
        self.plane.up()
        with step("containerd and images"):
            self.node.start_containerd()
            self.node.import_image(system_images.pause_image())
            dns_image, archive = system_images.part_image("coredns")
            self.node.import_image(archive)
        with step("node"):
            self.node.start_kubelet()
        with step("DNS"):
            text = manifest("coredns", IMAGE=dns_image, ADDRESS=self.network.dns_service)
            self.access.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
            self.access.kubectl("-n", "kube-system", "rollout", "status", "deploy/coredns", "--timeout=110s")

    def end(self) -> None:
        """End everything, and leave no process, mount, interface, firewall rule or control group."""
        self.plane.down()
        sandbox.down(self.processes)
        sandbox.remove_cable(self.network)
        cgroups.remove(self.name)
        self._forget()
        for name in self.processes.names():
            self.processes.forget(name)

    def _plane(self) -> ControlPlane:
        """The control plane, entered through the sandbox that exists now."""
        enter = sandbox.enter(self.processes) if sandbox.is_up(self.processes) else []
        return ControlPlane(
            self.root,
            self.network,
            self.binaries,
            names=PLANE_NAMES,
            enter=enter,
            audit_bodies=self._audit_bodies,
        )

    def _forget(self) -> None:
        self.plane.forget()
        self.node.forget()


def up(
    name: str = DEFAULT_NAME, *, owner: int = 0, audit_bodies: Mapping[str, Sequence[str]] | None = None
) -> Cluster:
    """Start the cluster ``name``, or what is missing of it, and wait until pods can run and find each other.

    Args:
        audit_bodies: resources, by API group, whose writes the audit log has with the bodies of request and
            answer; an API server that runs already keeps its policy.

    Raises:
        MachineError: not Linux, not root, or something cannot be installed.
        ClusterError: a part could not be built or does not become ready.
    """
    require_machine()
    apt.ensure(_PROGRAMS)
    binaries = build.binaries(parts.NODE)
    with locked(_lock(name)):
        with locked(paths.clusters_root() / "slots.lock"):
            network = _slot_for(name)
            state.save(paths.clusters_root() / name, state.State(network, PLANE_NAMES, owner))
        cluster = Cluster(name, network, binaries, audit_bodies=audit_bodies)
        cluster.whole()
        return cluster


def find(name: str = DEFAULT_NAME) -> Cluster | None:
    """The cluster of that name, running or not; None when there is none."""
    known = state.load(paths.clusters_root() / name)
    return None if known is None else Cluster(name, known.network, build.binaries(parts.NODE))


def down(name: str = DEFAULT_NAME) -> None:
    """End the cluster ``name``, if there is one; images and keys are kept for the next start."""
    with locked(_lock(name)):
        known = state.load(paths.clusters_root() / name)
        if known is not None:
            with step(f"end {name}"):
                Cluster(name, known.network, {}).end()


def purge(name: str = DEFAULT_NAME) -> None:
    """End the cluster ``name`` and remove all that it had, images and keys included."""
    down(name)
    shutil.rmtree(paths.clusters_root() / name, ignore_errors=True)
    _lock(name).unlink(missing_ok=True)


def require_machine() -> None:
    """Raise MachineError, with what to do instead, unless this machine can run a node."""
    if platform.system() != "Linux":
        raise MachineError(
            "a node needs Linux: run the tests on kind, k3d or minikube with E2E_KUBECONFIG "
            "(docs/development.md), or use `make control-plane`"
        )
    if os.geteuid() != 0:
        raise MachineError("a node needs root for its namespaces and mounts: run this with sudo")


def _lock(name: str) -> Path:
    return paths.clusters_root() / f"{name}.lock"


def _slot_for(name: str) -> Network:
    """The addresses that the cluster has, if it runs or nobody uses them; else the first free ones."""
    root = paths.clusters_root()
    used = {}
    for file in root.glob("*/cluster.json"):
        known = state.load(file.parent)
        if known is not None and known.network.slot is not None:
            if file.parent.name == name and sandbox.is_up(Processes(file.parent)):
                return known.network
            used[known.network.slot] = file.parent.name
    mine = [slot for slot, owner in used.items() if owner == name]
    unknown = [slot for slot in SLOTS if slot not in used]
    for slot in [*mine, *unknown]:
        if not Path(f"/sys/class/net/{node_network(slot).host_interface}").exists():
            return node_network(slot)
    raise MachineError(f"all {len(SLOTS)} slots for clusters are in use: end one with `make cluster-down`")
