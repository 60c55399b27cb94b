"""400 tasks at a limit of 50, counted from watches and the audit log and never from the operator's word.

Pods are played by kwok (https://kwok.sigs.k8s.io): those of the first round run until all 50 do, the others
succeed at once.
"""

import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.task import agenttask
from coding_agent_testbed.cluster import fake_nodes
from coding_agent_testbed.until import until

from tests.fixtures import audit
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.watcher import Object, Watcher
from tests.integration.operator.job_count import JobCount
from tests.integration.operator.world import ACCOUNT, OperatorProcess, World, account

# kwok and the scheduler may have to be built first.
pytestmark = pytest.mark.timeout(2400)

TASKS, REPOSITORIES, LIMIT = 400, 20, 50
POSITION_INTERVAL_S, POSITIONS_AT_A_TIME = 10, 100
"""As by default, and as decision 0009 promises."""


class Moves(Watcher):
    """Follows all tasks, and counts the changes in which nothing is new but the place in the queue.

    The limit that a task waits for may change with its place.

    Attributes:
        ran: the tasks that were shown as running.
    """

    def __init__(self, world: World) -> None:
        place = (agenttask.GROUP, agenttask.VERSION, world.namespace, agenttask.PLURAL)
        super().__init__(world.plane.custom.list_namespaced_custom_object, *place)
        self._status: dict[str, Mapping[str, Any]] = {}
        self.total = 0
        self.ran: set[str] = set()

    def phases(self) -> Counter[str]:
        return Counter(str(status.get("phase")) for status in list(self._status.values()))

    def see(self, kind: str, found: Object) -> None:
        name, status = found["metadata"]["name"], found.get("status") or {}
        before = self._status.get(name, {})
        self._status[name] = status
        if status.get("phase") == "Running":
            self.ran.add(name)
        moved = before.get("queuePosition") != status.get("queuePosition")
        if moved and without_place(before) == without_place(status):
            self.total += 1


def without_place(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a status without the place in the queue and the message of a task that waits for its turn."""
    conditions = [
        condition | {"message": ""} if condition["reason"] == "Waiting" else condition
        for condition in status.get("conditions", ())
    ]
    return {**status, "queuePosition": None, "conditions": conditions}


def requests(world: World) -> Counter[str]:
    """How often the API server has done what for the operator, by its audit log."""
    asked = audit.requests(world.plane, world.namespace, ACCOUNT)
    return Counter(request.what for request in asked if request.status < 300)


def create_all(world: World) -> str:
    """All tasks, that of the repository with a single one last; its name."""
    repositories = [f"octo/r{n % (REPOSITORIES - 1)}" for n in range(TASKS - 1)]
    with ThreadPoolExecutor(4) as several:
        list(several.map(lambda n: world.create(n + 1, repository=repositories[n]), range(TASKS - 1)))
    return world.create(TASKS, repository="octo/single")


def test_400_tasks_of_20_repositories_at_limit_50(
    control_plane_with_fake_nodes: PlaneUnderTest, namespace: str, tmp_path: Path
) -> None:
    install(control_plane_with_fake_nodes)
    world = World(control_plane_with_fake_nodes, namespace)
    single = create_all(world)
    kubeconfig = account(world.plane, namespace, tmp_path)

    def operator(**metadata: Any) -> OperatorProcess:
        template = {"metadata": metadata, "spec": fake_nodes.POD_PLACEMENT}
        settings = {
            "limits": {"global": LIMIT, "per_repository": LIMIT},
            "operator": {"job": {"pod_template": template}},
            "development": {"position_interval": POSITION_INTERVAL_S},
        }
        return OperatorProcess(kubeconfig, namespace, tmp_path, settings).start()

    begin = time.monotonic()
    with JobCount(world) as count, Moves(world) as moves:
        holding = operator(annotations={fake_nodes.HOLD: "true"})
        try:
            first_round = {"Running": LIMIT, "Queued": TASKS - LIMIT}
            until(
                "50 run", lambda: moves.phases() == first_round, timeout=300, interval=0.2, alive=moves.check
            )
        finally:
            assert holding.stop() == 0
        count.catch_up()
        assert count.most == len(count.order) == LIMIT
        assert f"{single}-1" in count.order
        assert len(set(count.repositories)) == REPOSITORIES, "in the first round every repository has one"
        going = operator()
        try:
            world.plane.kubectl("-n", namespace, "annotate", "pods", "--all", f"{fake_nodes.HOLD}-")
            all_done = {"Succeeded": TASKS}
            until(
                "the end", lambda: moves.phases() == all_done, timeout=1500, interval=0.2, alive=moves.check
            )
            count.catch_up()
        finally:
            assert going.stop() == 0
    took = time.monotonic() - begin
    asked = requests(world)
    print(f"{took:.0f} s, at most {count.most} Jobs at a time, {moves.total} places moved, {dict(asked)}")
    assert count.most <= LIMIT, "the limit is used, as the first round showed, and never exceeded"
    assert len(count.order) == len(set(count.order)) == TASKS, "one Job for each task"
    rounds = took / POSITION_INTERVAL_S + 2
    assert moves.total <= rounds * POSITIONS_AT_A_TIME
    # A task is written when it gets its place (those of the first round had none), when its Job is there,
    # when it runs, and when it has ended. How many of the others are seen running depends on the machine.
    assert asked["patch agenttasks/status"] <= 3 * TASKS + len(moves.ran) - LIMIT + moves.total
