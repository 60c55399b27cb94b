"""From a label taken off to the attempt's end: receiver and operator together, each under its own account."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from coding_agent_cluster.wait import until
from coding_agent_core.tasks import task_name

from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import Labeling, now, results
from tests.integration.core_kubernetes.place import Place
from tests.integration.core_kubernetes.test_exactly_once import item
from tests.integration.operator.pod_driver import RUNS, PodDriver
from tests.integration.operator.world import ACCOUNT, OperatorProcess, World, account

BY_WATCH = {"operator": {"relist_interval": 3600}}
"""The cancelled task is shown to the operator by its watch and by nothing else, so it is at once."""


@pytest.fixture
def world(place: Place, tmp_path: Path) -> Iterator[World]:
    """The namespace with an operator in it, whose pods run on until they are deleted."""
    with ExitStack() as stack:
        world = World(place.plane, place.namespace)
        stack.enter_context(PodDriver(place.plane, place.namespace, lambda _: RUNS))
        kubeconfig = account(place.plane, place.namespace, tmp_path)
        process = OperatorProcess(kubeconfig, place.namespace, tmp_path, BY_WATCH).start()
        stack.callback(process.stop)
        yield world


def deletions(world: World) -> int:
    """How often the API server has deleted a Job for the operator, by its audit log."""
    user = f"system:serviceaccount:{world.namespace}:{ACCOUNT}"

    def is_one(entry: dict[str, Any]) -> bool:
        of = entry.get("objectRef", {})
        done = entry["stage"] == "ResponseComplete" and entry["responseStatus"]["code"] == 200
        return done and (entry["verb"], of.get("resource"), entry["user"]["username"]) == (
            "delete",
            "jobs",
            user,
        )

    # The last line may be one that is being written.
    lines = world.plane.plane.folders.audit_log.read_text().splitlines(keepends=True)
    mine = (line for line in lines if world.namespace in line and line.endswith("\n"))
    return sum(is_one(entry) for entry in map(json.loads, mine))


async def test_a_label_taken_off_deletes_the_job_at_once(
    world: World, start_receiver: Callable[..., Program], http: httpx.AsyncClient
) -> None:
    port = start_receiver().port()
    name = task_name(item(7))
    assert results([await Labeling(7, "a", now(-60)).send(http, port)]) == {"success": 1}
    world.until_phase(name, "Running")
    assert list(world.jobs()) == [f"{name}-1"]

    assert results([await Labeling(7, "b", now(), "unlabeled").send(http, port)]) == {"cancelled": 1}
    until("the Job's deletion", lambda: deletions(world), timeout=60)
    status = world.until_phase(name, "Cancelled")
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Cancelled"]
    assert world.jobs() == {}
