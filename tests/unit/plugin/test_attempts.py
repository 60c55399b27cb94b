"""Which pod's log a person means."""

from typing import Any

import pytest
from kubectl_agenttask import PluginError
from kubectl_agenttask.cluster_client import choose, has_started, waiting_for


def pod(name: str, attempt: str, created: str = "2026-11-25T12:00:00Z", **status: Any) -> dict[str, Any]:
    labels = {"coding-agent.dev/attempt": attempt}
    return {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": created},
        "spec": {"containers": [{"name": "agent"}], "initContainers": [{"name": "workspace"}]},
        "status": status,
    }


PODS = [
    pod("b", "2", "2026-11-25T12:01:00Z"),
    pod("b-replaced", "2", "2026-11-25T12:02:00Z"),
    pod("a", "1"),
    pod("k", "10"),
]


@pytest.mark.parametrize(("attempt", "name"), [(None, "k"), (10, "k"), (2, "b-replaced"), (1, "a")])
def test_the_newest_pod_of_the_attempt_or_of_the_last(attempt: int | None, name: str) -> None:
    chosen = choose(PODS, attempt)
    assert chosen is not None
    assert chosen["metadata"]["name"] == name


def test_an_attempt_without_a_pod_names_those_that_have_one() -> None:
    with pytest.raises(PluginError, match=r"attempt 3 has no pod\b.*: 1, 2, 10\."):
        choose(PODS, 3)


@pytest.mark.parametrize(
    ("state", "has_begun"),
    [
        ({"waiting": {"reason": "PodInitializing"}}, False),
        ({"running": {}}, True),
        ({"terminated": {}}, True),
    ],
)
def test_a_container_has_a_log_once_it_began(state: dict[str, Any], has_begun: bool) -> None:
    assert (
        has_started(pod("a", "1", containerStatuses=[{"name": "agent", "state": state}]), "agent")
        is has_begun
    )
    init = pod("a", "1", initContainerStatuses=[{"name": "workspace", "state": state}])
    assert has_started(init, "workspace") is has_begun
    assert has_started(init, "agent") is False


def test_a_container_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(PluginError, match="--container agent or workspace"):
        has_started(pod("a", "1"), "sidecar")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "Pending"),
        (
            {"containerStatuses": [{"name": "agent", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "ErrImagePull",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
            "Unschedulable",
        ),
    ],
)
def test_why_a_pod_waits(status: dict[str, Any], reason: str) -> None:
    assert waiting_for(pod("a", "1", **status)) == reason
