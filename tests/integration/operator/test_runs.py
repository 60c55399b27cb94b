"""Several runs of an item: run 1 is deleted last, and a new run 1 that is a duplicate gets no Job."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from coding_agent_core.task.agenttask import (
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_NEXT_RUN_AT,
    LABEL_REPORTED,
)

from tests.integration.operator.pod_driver import RUNS, PodDriver
from tests.integration.operator.world import OperatorProcess, World, task_body

Start = Callable[..., OperatorProcess]
SWEEPS: dict[str, Any] = {
    "operator": {"policy": {"keep_finished": 0}},
    "development": {"sweep_interval": 0.3},
}


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


def test_run_1_is_deleted_when_no_other_run_is_there(world: World, pods: PodDriver, operator: Start) -> None:
    process = operator(development={"sweep_interval": 3600})
    first, second = world.create(7), world.create(7, run=2, ttlSecondsAfterFinished=3600)
    last = world.create(7, run=3)
    for name in (first, second, last):
        world.until_phase(name, "Succeeded")
        reported(world, name)
    announced = world.create(8)
    world.until_phase(announced, "Succeeded")
    reported(world, announced, **{ANNOTATION_NEXT_RUN_AT: datetime.now(UTC).isoformat()})
    assert process.stop() == 0

    process = operator(**SWEEPS)
    world.until("run 3 is deleted", lambda: last not in names(world))
    witness = world.create(9)
    world.until_phase(witness, "Succeeded")
    reported(world, witness)
    world.until("a further sweep", lambda: witness not in names(world))
    assert names(world) == {first, second, announced}
    world.plane.kubectl("-n", world.namespace, "delete", "agt", second)
    world.until("run 1 is deleted", lambda: first not in names(world))
    assert names(world) == {announced}, "another run of it may be about to come"
    assert process.stop() == 0


def by_hand(world: World, number: int) -> str:
    body: dict[str, Any] = {
        "apiVersion": "coding-agent.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {"name": f"by-hand-{number}"},
        "spec": {"source": task_body(number)["spec"]["source"]},
    }
    world.plane.custom.create_namespaced_custom_object(*world.place, body, _request_timeout=60)
    return str(body["metadata"]["name"])


def test_a_label_on_an_item_that_has_a_task_of_another_name_gets_no_job(
    world: World, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: RUNS
    operator()
    working = by_hand(world, 7)
    world.until_phase(working, "Running")
    duplicate = label(world, 7)
    status = world.until_phase(duplicate, "Cancelled")
    assert "attempts" not in status or status["attempts"] == []
    assert world.task(duplicate)["metadata"]["annotations"][ANNOTATION_DUPLICATE_OF] == working
    assert list(world.jobs()) == [f"{working}-1"]
