"""The chart's release on a real node, with forge and model on this machine."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster import images, sandbox
from coding_agent_testbed.cluster.cluster import PLANE_NAMES, Cluster
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.dump import namespace_dump
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.node import NAMES as NODE_NAMES
from coding_agent_testbed.cluster.node_config import NodeFolders
from coding_agent_testbed.until import NotReadyError

from tests.chaos import audit
from tests.chaos.api_proxy import ApiProxy
from tests.chaos.forges import TriedForge
from tests.chaos.kubernetes_faults import faults
from tests.chaos.pods import SERVES_SECONDS, Pods, wait
from tests.chaos.promises import Promises, RoundPromises
from tests.chaos.sandboxes import BOT_LOGIN, PEOPLE, REPOSITORIES, Sandboxes, machine, start_sandboxes
from tests.chaos.world import StartFault, WorldError
from tests.chart.place import node_values
from tests.chart.release import Release
from tests.fixtures.system import MODEL_KEY, SECRET, over
from tests.fixtures.system_in_pods import SMALL

PROGRAMS = {"receiver": 2, "operator": 1, "reporter": 1}
"""The release's Deployments, and how many pods each has."""
GLOBAL_LIMIT, REPOSITORY_LIMIT = 3, 2
GRACE_SECONDS = 20
TASK_BUDGET, REPOSITORY_BUDGET = Decimal(1), Decimal(200)
"""Dollars. An attempt costs some cents, or its whole budget if it was killed before it said what it spent.
The budget of a repository is for a day: used up, it would keep labels waiting until the end of the run."""
ROUNDS = {
    "enabled": True,
    "interval": 10,
    "review_quiet": 4,
    "checks_quiet": 3,
    "check_hangs_after": 60,
    "review_rounds": 3,
    "check_rounds": 2,
    "conflict_rounds": 2,
}
"""Shorter than people would set it, and with limits that a run reaches."""
_GROUP, _VERSION, _PLURAL = "coding-agent.dev", "v1alpha1", "agenttasks"
_ENDED = frozenset({"Succeeded", "Failed", "Cancelled"})
_DELIVERY_SECONDS = 90.0
_POLL_SECONDS = 90.0
"""The interval of the polls, which is a minute, and the time in which a poll's Job starts and reads all."""


@dataclass
class KubernetesWorld:
    """See `World`.

    Attributes:
        proxy: what the pods reach in the API server's place.
        broken: the cluster's parts that a fault has broken, and how many faults have.
    """

    cluster: Cluster
    namespace: str
    sandboxes: Sandboxes
    proxy: ApiProxy
    release: Release
    pods: Pods
    broken: Counter[str] = field(default_factory=Counter)
    _faults: dict[str, StartFault] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def forge(self) -> TriedForge:
        return self.sandboxes.forge

    @property
    def repositories(self) -> Sequence[str]:
        return REPOSITORIES

    @property
    def people(self) -> Mapping[str, str]:
        return PEOPLE

    @property
    def faults(self) -> Mapping[str, StartFault]:
        if not self._faults:
            self._faults = faults(self)
        return self._faults

    def records(self) -> Iterator[dict[str, Any]]:
        yield from self.sandboxes.records()
        at = datetime.now(UTC).isoformat()
        logs = self.cluster.processes.logs
        yield from audit.records(logs, self.namespace, self.tasks(), at)

    def promises(self) -> Promises:
        return Promises(
            bot=BOT_LOGIN,
            platform=self.sandboxes.platform,
            members=frozenset(login for login, role in PEOPLE.items() if role == "member"),
            global_limit=GLOBAL_LIMIT,
            repository_limit=REPOSITORY_LIMIT,
            repository_budget=REPOSITORY_BUDGET,
            poll=_POLL_SECONDS,
            grace=GRACE_SECONDS + 10.0,
            rounds=RoundPromises(
                reviews=ROUNDS["review_rounds"],
                checks=ROUNDS["check_rounds"],
                conflicts=ROUNDS["conflict_rounds"],
                quiet=ROUNDS["review_quiet"],
                start=60,
            ),
        )

    def idle(self) -> bool:
        try:
            tasks = self.tasks()
            pods = self.pods.seen("attempt", "evidence")
            working = [pod for pod in pods if pod.phase in ("Pending", "Running")]
        except Exception:  # whatever the client says of an API server that is away
            return False
        return (
            all(task.get("status", {}).get("phase") in _ENDED for task in tasks)
            and not any(_commands_wait(task) for task in tasks)
            and not working
            and self.sandboxes.all_delivered()
        )

    def check(self) -> None:
        """See `World`."""
        whole = self._whole_parts()
        try:
            self.cluster.processes.require(*whole)
        except NotReadyError as error:
            # A fault may have begun in the meantime; the next check sees whatever else has ended.
            if self._whole_parts() == whole:
                raise WorldError(f"a part of the cluster has ended by itself: {error}") from error
        self.sandboxes.check()

    def _whole_parts(self) -> list[str]:
        """The cluster's parts that no fault has broken."""
        return [name for name in ("sandbox", *PLANE_NAMES, *NODE_NAMES) if not self.broken[name]]

    def description(self) -> Mapping[str, str]:
        version = self.cluster.plane.api.get("/version")
        return machine(
            mode="Kubernetes",
            Kubernetes=str(version["gitVersion"]),
            limits=f"{GLOBAL_LIMIT} attempts at a time, {REPOSITORY_LIMIT} in a repository",
            **self.sandboxes.description(),
        )

    def logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "namespace.txt").write_text(namespace_dump(self.cluster.access, self.namespace))
        pod_logs = NodeFolders(self.cluster.root).pod_logs
        for source in pod_logs.glob(f"{self.namespace}_*"):
            with suppress(OSError, shutil.Error):  # the kubelet removes some as they are copied
                shutil.copytree(source, folder / "pods" / source.name, dirs_exist_ok=True)
        for log in self.cluster.processes.logs.glob("*.log"):
            shutil.copy(log, folder / log.name)
        self.sandboxes.logs(folder)

    def tasks(self) -> list[dict[str, Any]]:
        """The stored AgentTasks."""
        found: list[dict[str, Any]] = self.cluster.access.custom.list_namespaced_custom_object(
            _GROUP, _VERSION, self.namespace, _PLURAL, _request_timeout=10
        )["items"]
        return found

    def whole(self) -> None:
        """Wait until every program serves.

        Raises:
            WorldError: one does not, within its deadline.
        """
        wait("the API server answers", self.cluster.plane.api.is_ready, alive=self.check)
        for component, count in PROGRAMS.items():
            self.pods.wait_until_serving(component, count, self.check)

    def start_poll(self) -> str:
        """Begin a poll at once; the name of its Job."""
        job = f"poll-{uuid.uuid4().hex[:6]}"
        cron = f"cronjob/{self.release.name}-poller-{self.sandboxes.platform}"
        self.release.kubectl("create", "job", job, f"--from={cron}")
        return job

    def resend_comments(self) -> None:
        """Let people send the comments again that no receiver accepted: the webhook's page has a button.

        Only GitHub's poll finds more than labels. What a poll can find waits for the next one.
        """
        if self.sandboxes.platform != "github":
            self.sandboxes.deliveries.resend_comments()
            wait("all deliveries", self.sandboxes.all_delivered, seconds=_DELIVERY_SECONDS)

    @contextmanager
    def breaking(self, *names: str) -> Iterator[None]:
        """While it lasts, the end of these parts of the cluster is not a failure of the run."""
        self.broken.update(names)
        try:
            yield
        finally:
            self.broken.subtract(names)

    def inside(self, *command: str) -> str:
        """Run a command in the node's network namespace."""
        return run([*sandbox.enter(self.cluster.processes), *command])


def start_kubernetes(
    stack: ExitStack, cluster: Cluster, folder: Path, platform: str, provided: Mapping[str, str]
) -> KubernetesWorld:
    """Install the release in a namespace of its own, and wait until it serves; it ends with the stack.

    Args:
        cluster: with `audit.AUDITED` in its audit log.
        provided: names of the programs' images on its node.
    """
    address = cluster.network.host_address
    sandboxes = start_sandboxes(stack, platform, folder, address)
    proxy = stack.enter_context(ApiProxy(address, cluster.network.api_url, cluster.plane.folders.pki))
    namespace = f"chaos-{uuid.uuid4().hex[:6]}"
    access = cluster.access
    access.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    stack.callback(access.kubectl, "delete", "namespace", namespace, "--wait=false")
    release = Release(access, namespace, _values(sandboxes, dict(provided)))
    release.take_crd()
    world = KubernetesWorld(cluster, namespace, sandboxes, proxy, release, Pods(access, namespace))
    stack.enter_context(_in_the_way(world))
    release.install(None, "--wait", "--timeout", f"{SERVES_SECONDS:.0f}s")
    service = release.get("service", f"{release.name}-receiver")["spec"]
    sandboxes.hook(f"http://{service['clusterIP']}:{service['ports'][0]['port']}")
    world.whole()
    return world


def provide(
    cluster: Cluster, trees: Mapping[str, Path] | None = None, tag: str = images.TAG
) -> dict[str, str]:
    """Build the programs' images and hand them to the node; their names.

    Args:
        trees: by program, the tree from which its image is built, if it is not this one.
        tag: of the images. Images of another tree need a tag of their own.
    """
    programs = ("receiver", "operator", "consumer")
    made = {program: images.program_image(program, (trees or {}).get(program), tag) for program in programs}
    for image in made.values():
        cluster.provide(image)
    return {program: image.name for program, image in made.items()}


def _commands_wait(task: Mapping[str, Any]) -> bool:
    return bool(task["metadata"].get("labels", {}).get("coding-agent.dev/commands") == "pending")


@contextmanager
def _in_the_way(world: KubernetesWorld) -> Iterator[None]:
    """Lead new connections of pods to the API server's service through the proxy."""
    network = world.cluster.network
    rule = ["PREROUTING", "-t", "nat", "-s", network.pods, "-d", network.api_service, "-p", "tcp"]
    rule += ["--dport", "443", "-j", "DNAT", "--to-destination", f"{network.host_address}:{world.proxy.port}"]
    world.inside("iptables", "-w", "10", "-I", *rule)
    try:
        yield
    finally:
        with suppress(ClusterError):
            world.inside("iptables", "-w", "10", "-D", *rule)


def _values(sandboxes: Sandboxes, provided: dict[str, str]) -> dict[str, Any]:
    forge = sandboxes.forge
    platform = sandboxes.platform
    networks = [f"{forge.base_url.split('/')[2].split(':')[0]}/32"]
    section: dict[str, Any] = {"api_url": forge.api_url}
    if platform == "github":
        redelivery = {
            "webhook_url": f"{sandboxes.deliveries.url}/webhook/github",
            "repositories": list(REPOSITORIES),
        }
        section |= {"owner": "acme", "redelivery": redelivery}
    elif platform == "gitea":
        section |= {"owner": "acme", "account": BOT_LOGIN}
    config = {
        platform: section,
        "llm": {
            "openai": {"base_url": sandboxes.model_url, "model": "scripted"},
            "prices": {"scripted": {"input": "3", "output": "15"}},
        },
        "budgets": {
            "task": {"amount": str(TASK_BUDGET), "currency": "USD"},
            "repository": {"amount": str(REPOSITORY_BUDGET), "currency": "USD"},
        },
        "webhook": {"commands": {"enabled": True}},
        "rounds": ROUNDS,
        "limits": {"global": GLOBAL_LIMIT, "per_repository": REPOSITORY_LIMIT},
        # Shorter than in real use, so that a run of minutes shows what takes an hour.
        "operator": {"job": {**SMALL, "grace_seconds": GRACE_SECONDS}},
        "development": {
            "relist_interval": 15,
            "grace": 10,
            "retry_delay": 2,
            "retry_delay_max": 10,
            "check_interval": 15,
            "forge_retry_max": 10,
        },
    }
    values = {
        "secrets": {
            "webhook": {platform: SECRET},
            platform: {"token": sandboxes.bot_token},
            "model": {"apiKey": MODEL_KEY},
        },
        "config": config,
        "polling": {"enabled": True, "schedule": "* * * * *"},
        "networkPolicy": {"forge": {"cidrs": networks}, "model": {"cidrs": networks}},
    }
    return over(node_values(provided), values)
