"""Several runs of an item: they are deleted in any order, and one that nobody has read waits."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.task.agenttask import (
    LABEL_REPORTED,
)

from tests.integration.operator.pod_driver import PodDriver
from tests.integration.operator.world import OperatorProcess, World, task_body

Start = Callable[..., OperatorProcess]
SWEEPS: dict[str, Any] = {"development": {"keep_finished": 0, "sweep_interval": 0.3}}


def reported(world: World, name: str, **annotations: str) -> None:
    labels = {LABEL_REPORTED: "true"}
    world.plane.custom.patch_namespaced_custom_object(
        *world.place, name, {"metadata": {"labels": labels, "annotations": annotations}}, _request_timeout=60
    )


def names(world: World) -> set[str]:
    return {task["metadata"]["name"] for task in world.tasks()}


def label(world: World, number: int) -> str:
    """A fresh webhook, whose sink creates run 1 without reading first."""
    body = task_body(number)
    body["spec"]["trigger"]["labeledAt"] = datetime.now(UTC).isoformat()
    world.plane.custom.create_namespaced_custom_object(*world.place, body, _request_timeout=60)
    return str(body["metadata"]["name"])


def test_ended_runs_are_deleted_in_any_order(world: World, pods: PodDriver, operator: Start) -> None:
    process = operator(development={"sweep_interval": 3600})
    first, second = world.create(7), world.create(7, run=2, ttlSecondsAfterFinished=3600)
    last = world.create(7, run=3)
    for name in (first, second, last):
        world.answer(name)
        world.until_phase(name, "Succeeded")
        reported(world, name)
    assert process.stop() == 0

    process = operator(**SWEEPS)
    world.until("runs 1 and 3 are deleted", lambda: names(world) == {second})
    assert process.stop() == 0


def by_hand(world: World, number: int) -> str:
    """A task that a person creates with kubectl and suspends."""
    body: dict[str, Any] = {
        "apiVersion": "coding-agent.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {"name": f"by-hand-{number}"},
        "spec": {"source": task_body(number)["spec"]["source"], "suspend": True},
    }
    world.plane.custom.create_namespaced_custom_object(*world.place, body, _request_timeout=60)
    return str(body["metadata"]["name"])


def test_a_label_on_an_item_that_has_another_task_starts_once_the_reporter_has_read_the_item(
    world: World, pods: PodDriver, operator: Start
) -> None:
    other = by_hand(world, 7)
    operator()
    world.until_phase(other, "Suspended")  # The operator knows it before the label makes a task.
    unread = label(world, 7)
    world.patch(other, suspend=False)
    world.until_phase(other, "Succeeded")
    witness = world.create(9)
    world.until_phase(witness, "Succeeded")
    assert not world.task(unread)["status"].get("attempts")
    world.answer(unread)
    world.until_phase(unread, "Succeeded")
