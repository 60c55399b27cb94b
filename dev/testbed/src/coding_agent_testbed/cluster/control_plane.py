"""A control plane: etcd, API server and controllers, started, killed and ended as one or by name."""

import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from coding_agent_testbed.cluster import parts, pki
from coding_agent_testbed.cluster.api import Api
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.control_plane_commands import COMMANDS, Folders, audit_policy
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.network import Network
from coding_agent_testbed.cluster.processes import RESTARTS, Processes
from coding_agent_testbed.cluster.progress import step
from coding_agent_testbed.until import until

_READY_TIMEOUT_S = 120.0
# In this order: etcd waits five seconds on SIGTERM for the API server's watches to end.
_DEPENDENTS = ("kueue", "kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver")

# They end if the API server is away as they start. It and etcd stay as they were left: an end of theirs is a
# failure to report.
_RESTARTED = ("kube-controller-manager", "kube-scheduler")


class ControlPlane:
    """The control plane whose state is in ``root`` and which listens on ``network``.

    ``binaries`` says where each part is; ``enter`` is put before each command (nsenter, for a control plane
    inside a sandbox). The parts are those of ``names``; etcd and the API server are always among them.
    ``audit_bodies`` are resources, by API group, whose writes the audit log has with their bodies.
    """

    def __init__(
        self,
        root: Path,
        network: Network,
        binaries: Mapping[str, Path],
        *,
        names: Sequence[str] = parts.CONTROL_PLANE,
        enter: Sequence[str] = (),
        audit_bodies: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folders = Folders(root)
        self.network = network
        self.processes = Processes(root)
        self.api = Api(network.api_url, self.folders.pki)
        self.binaries = dict(binaries)
        self.names = [n for n in COMMANDS if n in names]
        self._enter = list(enter)
        self._audit_bodies = audit_bodies

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folders.kubeconfig

    def up(self) -> None:
        """Start what does not run yet and wait until pods could be made.

        Raises:
            NotReadyError: a part has died or is not ready in time; the end of its log is in the message.
        """
        self.folders.logs.mkdir(parents=True, exist_ok=True)
        pki.create(self.folders.pki, self.network)
        self.folders.audit_policy.write_text(yaml.safe_dump(audit_policy(self._audit_bodies)))
        with step("API server"):
            self._launch("etcd")
            self._launch("kube-apiserver")
            self._wait_for_api()
        with step("controllers"):
            for name in self.names[2:]:
                self._launch(name)
            self._wait_for_controllers()

    def start(self, name: str) -> None:
        """Start one part, unless it runs, and wait until the whole control plane is ready again."""
        self._require_known(name)
        self._launch(name)
        if self.processes.pid("etcd") and self.processes.pid("kube-apiserver"):
            self._wait_for_api()

    def kill(self, name: str) -> None:
        """End one part as if by ``kill -9``; returns when it is gone."""
        self._require_known(name)
        self.processes.stop(name, how=signal.SIGKILL, timeout=10)

    def launch_beside(self, name: str, command: list[str]) -> None:
        """Start a program that uses the API server and ends with the control plane, unless it runs."""
        self.processes.start(name, command, enter=self._enter)

    def run_inside(self, command: list[str]) -> str:
        """Run a short command where the control plane runs, and return what it prints."""
        return run([*self._enter, *command])

    def down(self) -> None:
        """End every part; what etcd had is kept."""
        for name in _DEPENDENTS:
            self.processes.stop(name, how=signal.SIGKILL, timeout=10)
        self.processes.stop("etcd", how=signal.SIGTERM, timeout=5)

    def forget(self) -> None:
        """Drop every object (etcd's data) and the logs, but keep the keys; only when down."""
        for folder in (self.folders.etcd, self.folders.logs):
            shutil.rmtree(folder, ignore_errors=True)

    def _require_known(self, name: str) -> None:
        if name not in self.names:
            raise ClusterError(f"this control plane has no {name!r}; it has: {', '.join(self.names)}")

    def _launch(self, name: str) -> None:
        _, *arguments = COMMANDS[name](self.folders, self.network)
        command = [str(self.binaries[name]), *arguments]
        restarts = RESTARTS if name in _RESTARTED else 0
        self.processes.start(name, command, enter=self._enter, restarts=restarts)

    def _wait_for_api(self) -> None:
        def alive() -> None:
            self.processes.require("etcd", "kube-apiserver")

        until("API server ready", self.api.is_ready, timeout=_READY_TIMEOUT_S, alive=alive)

    def _wait_for_controllers(self) -> None:
        """Wait for the service account ``default``, made last; no pod is admitted before."""
        if "kube-controller-manager" in self.names:
            until(
                "service account default",
                lambda: self.api.get("/api/v1/namespaces/default/serviceaccounts/default"),
                timeout=_READY_TIMEOUT_S,
                alive=lambda: self.processes.require(*self.names),
            )
