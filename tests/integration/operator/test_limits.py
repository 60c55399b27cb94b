"""Limits, counted from a watch of the test's own and never from the operator's word."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from coding_agent_core.agenttask import LABEL_REPOSITORY
from kubernetes import client, watch

from tests.integration.operator.pod_driver import DONE, RUNS, PodDriver
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]


class JobCount:
    """How many Jobs were active at a time at the most, in all and of one repository."""

    def __init__(self, world: World) -> None:
        self._api = client.BatchV1Api(world.plane.api_client)
        self._namespace = world.namespace
        self._active: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._version = world.plane.batch.list_namespaced_job(world.namespace).metadata.resource_version
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = 0
        self.most_of_one = 0
        self.order: list[str] = []
        self.repositories: list[str] = []

    def __enter__(self) -> JobCount:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        version = self._version
        while not self._stop.is_set():
            stream = watch.Watch().stream(  # type: ignore[no-untyped-call]
                self._api.list_namespaced_job,
                self._namespace,
                resource_version=version,
                timeout_seconds=1,
                _request_timeout=5,
            )
            for event in stream:
                version = event["object"].metadata.resource_version
                self._see(event["type"], event["object"])

    def _see(self, kind: str, job: Any) -> None:
        over = any(
            c.type in ("Complete", "Failed") and c.status == "True" for c in job.status.conditions or []
        )
        uid, repository = job.metadata.uid, job.metadata.labels.get(LABEL_REPOSITORY, "")
        with self._lock:
            if kind == "DELETED" or over:
                self._active.pop(uid, None)
                return
            if uid not in self._active:
                self.order.append(job.metadata.name)
                self.repositories.append(repository)
            self._active[uid] = repository
            self.most = max(self.most, len(self._active))
            self.most_of_one = max(self.most_of_one, *Counter(self._active.values()).values())


@pytest.fixture
def count(world: World) -> Iterator[JobCount]:
    with JobCount(world) as counting:
        yield counting


def phases(world: World) -> Counter[str]:
    return Counter(str(t.get("status", {}).get("phase")) for t in world.tasks())


def test_the_limits_hold_and_positions_show_who_waits(
    world: World, pods: PodDriver, operator: Start, count: JobCount
) -> None:
    pods.script = lambda _: RUNS
    names = [world.create(n, repository=f"octo/r{n % 2}") for n in range(1, 9)]
    operator(limits={"global": 3, "perRepository": 2})
    world.until("3 run", lambda: phases(world) == {"Running": 3, "Queued": 5} or None)
    waiting = [t["status"]["queuePosition"] for t in world.tasks() if t["status"]["phase"] == "Queued"]
    assert sorted(waiting) == [1, 2, 3, 4, 5]
    pods.script = lambda _: DONE
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until("all succeed", lambda: phases(world) == {"Succeeded": len(names)} or None, timeout=40)
    assert (count.most, count.most_of_one) == (3, 2)


def test_200_tasks_of_20_repositories_at_limit_20(
    world: World, pods: PodDriver, operator: Start, count: JobCount
) -> None:
    pods.script = lambda _: RUNS
    for n in range(199):
        world.create(n + 1, repository=f"octo/r{n % 19}")
    single = world.create(5000, repository="octo/single")
    process = operator(limits={"global": 20, "perRepository": 20})
    world.until("20 run", lambda: phases(world) == {"Running": 20, "Queued": 180} or None, timeout=30)
    assert f"{single}-1" in count.order, "the repository with one task is in the first round"
    assert len(set(count.repositories)) == 20, "every repository is"
    pods.script = lambda _: DONE
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until("all succeed", lambda: phases(world) == {"Succeeded": 200} or None, timeout=150)
    assert count.most == 20, "the limit is used, and never exceeded"
    assert len(count.order) == 200, "one Job for each task"
    assert process.stop() == 0


def test_a_job_without_a_task_takes_its_place_and_is_left_alone(
    world: World, pods: PodDriver, operator: Start, count: JobCount
) -> None:
    pods.script = lambda _: RUNS
    process = operator(limits={"global": 1})
    first = world.create(1)
    world.until_phase(first, "Running")
    process.stop()
    # Deleted by hand, and its Job kept.
    world.plane.kubectl("-n", world.namespace, "delete", "agt", first, "--cascade=orphan")
    second = world.create(2)
    process.start()
    world.until_phase(second, "Queued")
    orphan = f"{first}-1"
    assert set(world.jobs()) == {orphan}
    pods.script = lambda _: DONE
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until_phase(second, "Succeeded", timeout=30)
    assert orphan in world.jobs()
    assert count.most == 1
