"""Two operators at a time (a rolling update, a second Deployment by mistake): only one acts."""

import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.operator.crash_proxy import proxy_of
from tests.integration.operator.job_count import JobCount
from tests.integration.operator.pod_driver import RUNS, PodDriver
from tests.integration.operator.world import OperatorProcess, World, account

Start = Callable[..., OperatorProcess]


def ready(world: World, *operators: OperatorProcess) -> None:
    world.until("all are ready", lambda: {o.probe("/readyz")[0] for o in operators} == {200} or None)


def leads(operator: OperatorProcess) -> bool:
    shown = operator.probe("/metrics")[1]
    return re.search(r"^coding_agent_operator_leader\{.*\} 1\.0$", shown, re.MULTILINE) is not None


class Arrivals:
    """Tasks that come one after the other, each to start before all that came before it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        for number in range(1, 400):
            self._world.create(number, priority=number // 4)
            if self._stop.wait(0.02):
                return


def test_two_operators_never_exceed_the_limit_nor_double_a_job(
    world: World, pods: PodDriver, operator: Start, count: JobCount, tmp_path: Path
) -> None:
    """One of them sees all a little later, so it decides otherwise: another task has its turn by then."""
    settings = {"limits": {"global": 2, "per_repository": 2}}
    with proxy_of(world.plane.kubeconfig) as proxy:
        kubeconfig = account(world.plane, world.namespace, tmp_path, proxy.url)
        late = OperatorProcess(kubeconfig, world.namespace, tmp_path, settings).start()
        quick = operator(**settings)
        try:
            ready(world, quick, late)
            proxy.delay = 0.05
            with Arrivals(world):
                world.until("10 Jobs", lambda: len(count.order) >= 10 or None)
            count.catch_up()
            assert count.most <= 2
            assert len(set(count.order)) == len(count.order), "one Job for each task"
            assert [leads(quick), leads(late)].count(True) == 1
        finally:
            late.stop()


@pytest.mark.long
def test_one_that_sleeps_is_replaced_and_does_nothing_when_it_wakes(
    world: World, pods: PodDriver, operator: Start, count: JobCount
) -> None:
    pods.script = lambda _: RUNS
    settings: dict[str, Any] = {"limits": {"global": 1}, "operator": {"lease_duration": 6}}
    first = operator(**settings)
    world.until("it acts", lambda: leads(first) or None)
    second = operator(**settings)
    ready(world, second)
    os.kill(first.pid, signal.SIGSTOP)
    world.until("the other acts", lambda: leads(second) or None)
    one, two = (world.create(number) for number in (1, 2))
    world.until_phase(one, "Running")
    os.kill(first.pid, signal.SIGCONT)
    world.until("the first has lost the Lease", lambda: "holds the Lease" in first.log() or None)
    assert not leads(first)
    world.until_phase(two, "Queued")
    count.catch_up()
    assert (count.most, set(world.jobs())) == (1, {f"{one}-1"})
