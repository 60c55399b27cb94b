"""Faults on Kubernetes while the API server is away, or while their pod has just ended."""

from __future__ import annotations

import os
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from kubernetes.client import (
    ApiException,
    V1ContainerState,
    V1ContainerStateRunning,
    V1ContainerStateTerminated,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodCondition,
    V1PodStatus,
)
from urllib3.exceptions import HTTPError

from tests.chaos import kubernetes_faults
from tests.chaos.pods import Pods
from tests.chaos.world import NothingToBreakError, StartFault

AWAY = HTTPError("read timed out")


RUNNING = V1ContainerState(running=V1ContainerStateRunning())
ENDED = V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=0))


def pod(component: str, state: V1ContainerState = RUNNING) -> V1Pod:
    labels = {"app.kubernetes.io/component": component}
    container = V1ContainerStatus(
        container_id="containerd://1",
        image="i",
        image_id="i",
        name="agent",
        ready=True,
        restart_count=0,
        state=state,
    )
    status = V1PodStatus(phase="Running", pod_ip="10.244.0.5", container_statuses=[container])
    return V1Pod(metadata=V1ObjectMeta(name="p", labels=labels), status=status)


def fault(kind: str, core: Any) -> StartFault:
    world = MagicMock()
    world.sandboxes.faults.return_value = world.sandboxes.delivery_faults.return_value = {}
    world.sandboxes.deliveries.failed = 0
    world.pods = Pods(MagicMock(core=core), "chaos")
    world.cluster.access.core = core
    return kubernetes_faults.faults(world)[kind]


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("upgrade of the release", [AWAY]),
        ("kill operator after a request", [SimpleNamespace(items=[pod("operator")]), AWAY]),
    ],
)
def test_a_fault_has_nothing_to_break_while_the_api_server_is_away(kind: str, answers: list[Any]) -> None:
    core = MagicMock()
    core.list_namespaced_pod.side_effect = answers
    with pytest.raises(NothingToBreakError, match="does not answer"):
        fault(kind, core)(Random(1))


def test_a_pod_whose_only_container_has_ended_is_nothing_to_break() -> None:
    core = MagicMock()
    core.list_namespaced_pod.return_value = SimpleNamespace(items=[pod("poller", ENDED)])
    with pytest.raises(NothingToBreakError, match="no pod of poller works now"):
        Pods(MagicMock(core=core), "chaos").one("poller", Random(1))


@pytest.mark.parametrize("status", [404, 409, 429])
def test_a_pod_that_ends_before_its_eviction_is_nothing_to_break(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_faults, "processes_of", lambda _: [os.getpid()])
    core = MagicMock()
    core.list_namespaced_pod.return_value = SimpleNamespace(items=[pod("attempt")])
    core.create_namespaced_pod_eviction.side_effect = ApiException(status, "no")
    with pytest.raises(NothingToBreakError, match="was not evicted"):
        fault("pod evicted", core)(Random(1))


@pytest.mark.parametrize("error", [AWAY, ApiException(504, "timeout")])
def test_an_eviction_whose_answer_is_lost_counts_as_begun(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_faults, "processes_of", lambda _: [os.getpid()])
    core = MagicMock()
    core.list_namespaced_pod.return_value = SimpleNamespace(items=[pod("attempt")])
    core.create_namespaced_pod_eviction.side_effect = error
    end = fault("pod evicted", core)(Random(1))
    core.list_namespaced_pod.return_value = SimpleNamespace(items=[])
    assert end().count == 0  # the process of this test has not ended


def test_a_cordon_counts_the_pods_that_wait_for_a_place_once_the_api_server_answers() -> None:
    waits = V1PodCondition(
        type="PodScheduled", status="False", message="1 node(s) were unschedulable. No preemption."
    )
    full = V1PodCondition(type="PodScheduled", status="False", message="1 Insufficient cpu.")
    pods = [
        V1Pod(metadata=V1ObjectMeta(name=f"p{number}"), status=V1PodStatus(conditions=[condition]))
        for number, condition in enumerate([waits, full, waits])
    ]
    core = MagicMock()
    core.list_namespaced_pod.side_effect = [AWAY, SimpleNamespace(items=pods)]
    assert fault("node cordoned", core)(Random(1))().count == 2
