"""A real control plane with the AgentTask resource: namespaces, the programs' own accounts, bulk work."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from coding_agent_core.kubernetes.transport import Access as Credentials
from coding_agent_core.kubernetes.transport import ApiServer
from coding_agent_core.task import agenttask

from coding_agent_testbed.bench.program import ROOT, cpu_seconds
from coding_agent_testbed.cluster.access import Access, KubectlError
from coding_agent_testbed.cluster.control_plane import ControlPlane
from coding_agent_testbed.until import until

T = TypeVar("T")
_TIMEOUT = 30.0
_AT_A_TIME = 32


@dataclass(frozen=True)
class Account:
    """A program's account as a plain HTTP client uses it.

    Attributes:
        server: URL of the API server.
        authority: file with the certificate of the authority that it is known by.
    """

    namespace: str
    kubeconfig: Path
    server: str
    token: str
    authority: Path

    @staticmethod
    def of(namespace: str, kubeconfig: Path) -> Account:
        config = json.loads(kubeconfig.read_text(encoding="utf-8"))
        cluster = config["clusters"][0]["cluster"]
        authority = kubeconfig.with_suffix(".pem")
        authority.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
        token = config["users"][0]["user"]["token"]
        return Account(namespace, kubeconfig, cluster["server"], token, authority)


class Plane(Access):
    """A control plane, as its administrator uses it."""

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(plane.kubeconfig, plane.binaries["kubectl"])
        self.etcd_url = plane.network.etcd_url
        self._processes = plane.processes

    def install(self) -> None:
        """Put the AgentTask resource into it.

        Raises:
            KubectlError: it is refused, or not there in time.
        """
        self.apply(yaml.safe_load((ROOT / "crds" / "agenttask.yaml").read_text(encoding="utf-8")))
        self.wait_until_established("agenttasks.coding-agent.dev")
        # The API server refuses lists until its cache is filled; an operator would retry a second later.
        until("lists of AgentTasks", self._list_all, timeout=90, transient=(KubectlError,))

    def _list_all(self) -> bool:
        # Without a limit: kubectl's usual one is answered without the cache.
        self.kubectl("get", "agenttasks.coding-agent.dev", "--all-namespaces", "--chunk-size=0")
        return True

    def namespace(self) -> str:
        """A new one, in which pods can be made."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        self.kubectl("create", "namespace", name)
        self.kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        return name

    def account(self, namespace: str, role: str, folder: Path) -> Path:
        """A kubeconfig of a program's own account, with nothing but what its role file gives.

        Args:
            role: path in the checkout, for example `operator/deploy/role.yaml`.
        """
        objects = list(yaml.safe_load_all((ROOT / role).read_text(encoding="utf-8")))
        for object_ in objects:
            object_["metadata"]["namespace"] = namespace
            for subject in object_.get("subjects", []):
                subject["namespace"] = namespace
        self.apply(*objects)
        account = next(object_ for object_ in objects if object_["kind"] == "ServiceAccount")["metadata"][
            "name"
        ]
        token = self.kubectl("-n", namespace, "create", "token", account, "--duration=2h").strip()
        config = yaml.safe_load(self.kubeconfig.read_text(encoding="utf-8"))
        config["users"][0]["user"] = {"token": token}
        file = folder / f"{account}-{namespace}.kubeconfig"
        file.write_text(json.dumps(config), encoding="utf-8")
        return file

    def cpu_seconds(self) -> float:
        """Processor time of etcd and the API server so far."""
        pids = (self._processes.pid(name) for name in ("etcd", "kube-apiserver"))
        return sum(cpu_seconds(pid) for pid in pids if pid is not None)

    async def connect(self) -> ApiServer:
        """A connection for many requests; close it with `aclose`."""
        return await ApiServer.connect(
            Credentials(str(self.kubeconfig)), _TIMEOUT, role="no role: cluster-admin"
        )


def tasks_path(namespace: str, name: str = "", part: str = "") -> str:
    """The path of AgentTasks, of one of them, or of a part of it (`status`)."""
    path = f"/apis/{agenttask.GROUP}/{agenttask.VERSION}/namespaces/{namespace}/{agenttask.PLURAL}"
    return "/".join(entry for entry in (path, name, part) if entry)


async def at_once(things: Iterable[T], work: Callable[[T], Awaitable[None]], most: int = _AT_A_TIME) -> None:
    """Do it for all of them, so many at a time."""
    rest = iter(things)

    async def some() -> None:
        for thing in rest:
            await work(thing)

    async with asyncio.TaskGroup() as group:
        for _ in range(most):
            group.create_task(some())


def items_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a list that the API server answered."""
    items: list[dict[str, Any]] = found["items"]
    return items
