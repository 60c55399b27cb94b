"""A limit holds for 200 tasks, counted from a watch of the test's own and not from the operator's word."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.operator.job_count import JobCount
from tests.integration.operator.pod_driver import DONE, RUNS, PodDriver
from tests.integration.operator.test_limits import phases
from tests.integration.operator.world import OperatorProcess, World

pytestmark = pytest.mark.timeout(700)
Start = Callable[..., OperatorProcess]


def test_200_tasks_of_20_repositories_at_limit_20(
    world: World, pods: PodDriver, operator: Start, count: JobCount
) -> None:
    pods.script = lambda _: RUNS
    for n in range(199):
        world.create(n + 1, repository=f"octo/r{n % 19}")
    single = world.create(5000, repository="octo/single")
    process = operator(limits={"global": 20, "per_repository": 20})
    world.until("20 run", lambda: phases(world) == {"Running": 20, "Queued": 180} or None, timeout=120)
    count.catch_up()
    assert f"{single}-1" in count.order, "the repository with one task is in the first round"
    assert len(set(count.repositories)) == 20, "every repository is"
    pods.script = lambda _: DONE
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until("all succeed", lambda: phases(world) == {"Succeeded": 200} or None, timeout=400)
    count.catch_up()
    assert count.most == 20, "the limit is used, and never exceeded"
    assert len(count.order) == 200, "one Job for each task"
    assert process.stop() == 0
