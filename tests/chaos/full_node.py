"""A node that is really full: pods that do nothing ask for all CPU that is left on it.

The fillers have the priority of attempts, so that the scheduler preempts none of them for an attempt. More
fillers wait for a place before any attempt does, so that a filler takes each place that an attempt leaves.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

from coding_agent_testbed.cluster.node_config import PAUSE_IMAGE
from coding_agent_testbed.cluster.pki import NODE_NAME
from kubernetes.client import ApiException
from kubernetes.utils.quantity import parse_quantity

from tests.chaos.pods import REQUEST_SECONDS, wait
from tests.chaos.world import Effect, NothingToBreakError, StartFault, Undo

if TYPE_CHECKING:
    from tests.chaos.kubernetes_world import KubernetesWorld

_NAMESPACE = "default"
_LEFT = Decimal("0.005")
"""CPU that is left: less than a pod of the release asks for."""
_SMALL = Decimal("0.02")
"""CPU that an attempt asks for, and each filler that waits."""
_WAITING = 4


def fill(world: KubernetesWorld) -> StartFault:
    """The fault; it counts the pods that wait because of the missing CPU when it is asked to end."""

    def start(_: Random) -> Undo:
        core = world.cluster.access.core
        name = f"filler-{uuid.uuid4().hex[:6]}"
        try:
            node = core.read_node(NODE_NAME, _request_timeout=REQUEST_SECONDS)
            pods = core.list_pod_for_all_namespaces(_request_timeout=REQUEST_SECONDS).items
            left = _quantity(node.status.allocatable["cpu"]) - asked(
                pod.spec for pod in pods if pod.spec.node_name and pod.status.phase in ("Pending", "Running")
            )
            for number, cpu in enumerate([left - _LEFT, *[_SMALL] * _WAITING]):
                if cpu > 0:
                    body = _filler(f"{name}-{number}", name, cpu)
                    core.create_namespaced_pod(_NAMESPACE, body, _request_timeout=REQUEST_SECONDS)
        except Exception as error:
            _remove(world, name)
            raise NothingToBreakError(f"the API server does not answer: {error!r}") from error

        def undo() -> Effect:
            waiting = without_place(world, "Insufficient cpu")
            _remove(world, name)
            return Effect(waiting, "pods had no place because the CPU was used up")

        return undo

    return start


def without_place(world: KubernetesWorld, reason: str) -> int:
    """Count the release's and the attempts' pods that the scheduler could not place for this reason.

    Raises:
        WorldError: the API server does not answer in time.
    """
    found: list[Any] = []

    def listed() -> bool:
        core = world.cluster.access.core
        found[:] = core.list_namespaced_pod(world.namespace, _request_timeout=REQUEST_SECONDS).items
        return True

    wait("the pods without a place", listed, alive=world.check)
    return sum(
        condition.type == "PodScheduled"
        and condition.status == "False"
        and reason in (condition.message or "")
        for pod in found
        for condition in pod.status.conditions or ()
    )


def asked(specs: Iterable[Any]) -> Decimal:
    """The CPU that pods ask for, as the scheduler counts it.

    That is the sum of the containers and the sidecars, or more if an init container asks for more.
    """
    total = Decimal(0)
    for spec in specs:
        first = spec.init_containers or []
        lasting = [*spec.containers, *(one for one in first if one.restart_policy == "Always")]
        most = max((_cpu(one) for one in first if one.restart_policy != "Always"), default=Decimal(0))
        total += max(sum(map(_cpu, lasting), Decimal(0)), most)
    return total


def _cpu(container: Any) -> Decimal:
    requests = (container.resources and container.resources.requests) or {}
    return _quantity(requests.get("cpu", "0"))


def _quantity(text: str) -> Decimal:
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]


def _filler(name: str, label: str, cpu: Decimal) -> dict[str, Any]:
    container = {
        "name": "pause",
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "resources": {"requests": {"cpu": f"{int(cpu * 1000)}m"}},
    }
    return {
        "metadata": {"name": name, "labels": {"filler": label}},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
        },
    }


def _remove(world: KubernetesWorld, label: str) -> None:
    core = world.cluster.access.core
    selector = f"filler={label}"

    def gone() -> bool:
        with suppress(ApiException):
            core.delete_collection_namespaced_pod(
                _NAMESPACE, label_selector=selector, grace_period_seconds=0, _request_timeout=REQUEST_SECONDS
            )
        left = core.list_namespaced_pod(_NAMESPACE, label_selector=selector, _request_timeout=REQUEST_SECONDS)
        return not left.items

    wait("the end of the fillers", gone, alive=world.check)
