"""The node: containerd, kubelet and kube-proxy inside the sandbox, and the images that it has."""

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO

import yaml

from coding_agent_testbed.cluster import build, cgroups, layout, node_config, paths, sandbox
from coding_agent_testbed.cluster.api import Api
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.network import Network
from coding_agent_testbed.cluster.node_config import NodeFolders
from coding_agent_testbed.cluster.pki import NODE_NAME
from coding_agent_testbed.cluster.processes import RESTARTS, Processes
from coding_agent_testbed.until import until

NAMES = ("containerd", "kubelet", "kube-proxy")
_READY_TIMEOUT_S = 150.0
# Unpacking a large image on a busy disk.
_IMPORT_TIMEOUT_S = 600.0


class Node:
    """The one node of the cluster ``cluster``."""

    def __init__(
        self,
        cluster: str,
        folders: NodeFolders,
        network: Network,
        processes: Processes,
        api: Api,
        binaries: Mapping[str, Path],
    ) -> None:
        self._cluster = cluster
        self._folders = folders
        self._network = network
        self._processes = processes
        self._api = api
        self._binaries = binaries

    def start_containerd(self) -> None:
        """Write the configuration, start containerd and wait until it answers."""
        self._configure()
        self._launch("containerd", f"--config={self._folders.config}/containerd.toml")
        until(
            "containerd ready",
            self._containerd_answers,
            timeout=90,
            alive=lambda: self._processes.require("containerd"),
        )

    def start_kubelet(self) -> None:
        """Start kubelet and kube-proxy, and wait until this kubelet has said that the node is ready."""
        cgroups.create(self._cluster)
        began = None if self._processes.pid("kubelet") else time.time()
        self._launch(
            "kubelet",
            f"--config={self._folders.config}/kubelet.yaml",
            f"--kubeconfig={self._folders.pki}/kubelet.kubeconfig",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={self._network.address}",
            f"--root-dir={self._folders.kubelet}",
            "--v=2",
        )
        self._launch(
            "kube-proxy",
            f"--config={self._folders.config}/kube-proxy.yaml",
            f"--hostname-override={NODE_NAME}",
        )
        until(
            "node Ready",
            lambda: self._is_ready(began or 0.0),
            timeout=_READY_TIMEOUT_S,
            alive=lambda: self._processes.require(*NAMES),
        )

    def add_gvisor(self) -> None:
        """Configure the runtime gVisor, and start containerd again with it; pods go on running."""
        built = build.binaries(["runsc", "containerd-shim-runsc-v1"])
        folders, shim = self._folders, built["containerd-shim-runsc-v1"]
        files = {
            folders.gvisor_shim: node_config.gvisor_shim(shim, folders.kubelet / "pods"),
            folders.gvisor: node_config.runsc(built["runsc"], paths.SOCKETS / "runsc"),
        }
        if all(path.exists() and path.read_text() == text for path, text in files.items()):
            return
        for path, text in files.items():
            path.write_text(text)
        folders.gvisor_shim.chmod(0o755)
        self.kill("containerd")
        self.start("containerd")

    def start(self, name: str) -> None:
        """Start one part, unless it runs, and wait until the node is ready again."""
        if name == "containerd":
            self.start_containerd()
        self.start_kubelet()

    def import_image(self, archive: Path) -> None:
        """Give the node the image in an OCI archive; does nothing when it has that very archive.

        Raises:
            ClusterError: containerd refuses it.
        """
        stat = archive.stat()
        mark = self._folders.containerd / "imported" / archive.name
        stamp = json.dumps([str(archive), stat.st_size, stat.st_mtime_ns])
        if mark.exists() and mark.read_text() == stamp:
            return
        self._ctr("images", "import", str(archive), timeout=_IMPORT_TIMEOUT_S)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(stamp)

    def import_built(self, folder: Path, image: str) -> None:
        """Give the node a built image from an OCI layout; only the layers that it lacks are sent.

        Raises:
            ClusterError: containerd refuses it.
        """
        present = set(self._ctr("content", "list", "-q").split())
        with tempfile.TemporaryFile() as archive:
            layout.write_archive(folder, image, present, archive)
            archive.seek(0)
            self._ctr("images", "import", "-", timeout=_IMPORT_TIMEOUT_S, stdin=archive)

    def images(self) -> list[str]:
        """The names of the images that the node has."""
        return self._ctr("images", "list", "-q").split()

    def forget(self) -> None:
        """Drop what belongs to pods and what others gave to containerd, and keep the images; only when down.

        A test that is killed leaves its registries and image verifiers behind, and the next cluster must not
        ask them.
        """
        pods = (self._folders.kubelet, self._folders.pod_logs, self._folders.addresses)
        for folder in (*pods, self._folders.registries, self._folders.image_verifiers):
            shutil.rmtree(folder, ignore_errors=True)
        self._folders.gvisor.unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """End one part as if by ``kill -9``; containers live on."""
        self._processes.stop(name, how=signal.SIGKILL, timeout=10)

    def _configure(self) -> None:
        folders, network = self._folders, self._network
        cni_folder = folders.config / "cni"
        cni_folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "kubelet.yaml": yaml.safe_dump(
                node_config.kubelet(folders, network, cgroups.group(self._cluster))
            ),
            "kube-proxy.yaml": yaml.safe_dump(node_config.kube_proxy(folders, network)),
            "containerd.toml": node_config.containerd(
                folders, self._binaries["runc"], self._binaries["ptp"].parent
            ),
            "cni/10-coding-agent.conflist": json.dumps(node_config.cni(folders, network)),
            # No name server: CoreDNS answers for the cluster, and nothing else can be reached.
            "resolv.conf": "nameserver 127.0.0.1\n",
        }
        for name, text in texts.items():
            file = folders.config / name
            # kube-proxy ends when its file is written, even with the same text.
            if not file.exists() or file.read_text() != text:
                file.write_text(text)

    def _launch(self, name: str, *arguments: str) -> None:
        binary = self._binaries[name]
        enter = sandbox.enter(self._processes)
        command, path = [str(binary), *arguments], str(binary.parent)
        restarts = RESTARTS if name == "kubelet" else 0
        self._processes.start(name, command, enter=enter, path=path, restarts=restarts)

    def _ctr(self, *arguments: str, timeout: float = 120.0, stdin: IO[bytes] | None = None) -> str:
        command = [
            *sandbox.enter(self._processes),
            *(str(self._binaries["ctr"]), "--address", str(self._folders.containerd_socket)),
            *("--namespace", "k8s.io"),
        ]
        return run([*command, *arguments], timeout=timeout, stdin=stdin)

    def _containerd_answers(self) -> bool:
        try:
            self._ctr("version", timeout=10)
        except ClusterError:
            return False
        return True

    def _is_ready(self, since: float) -> bool:
        """Whether the node is Ready, said by a kubelet that has been started after ``since``.

        What an earlier kubelet said stays in the API, Ready included; its heartbeat is older.
        """
        node = self._api.get(f"/api/v1/nodes/{NODE_NAME}")
        for condition in (node or {}).get("status", {}).get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                beat = datetime.fromisoformat(condition["lastHeartbeatTime"]).timestamp()
                return beat >= int(since)
        return False
