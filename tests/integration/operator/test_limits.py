"""Limits, counted from a watch of the test's own and never from the operator's word."""

from collections import Counter
from collections.abc import Callable

from tests.integration.operator.job_count import JobCount
from tests.integration.operator.pod_driver import DONE, RUNS, PodDriver
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]


def phases(world: World) -> Counter[str]:
    return Counter(str(t.get("status", {}).get("phase")) for t in world.tasks())


def test_the_limits_hold_and_positions_show_who_waits(
    world: World, pods: PodDriver, operator: Start, count: JobCount
) -> None:
    pods.script = lambda _: RUNS
    names = [world.create(n, repository=f"octo/r{n % 2}") for n in range(1, 9)]
    operator(limits={"global": 3, "per_repository": 2})
    world.until("3 run", lambda: phases(world) == {"Running": 3, "Queued": 5} or None)
    waiting = [t["status"]["queuePosition"] for t in world.tasks() if t["status"]["phase"] == "Queued"]
    assert sorted(waiting) == [1, 2, 3, 4, 5]
    pods.script = lambda _: DONE
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until("all succeed", lambda: phases(world) == {"Succeeded": len(names)} or None, timeout=120)
    count.catch_up()
    assert (count.most, count.most_of_one) == (3, 2)
