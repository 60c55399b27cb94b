"""The operator is killed with SIGKILL after each write, and after each kind of read; the end is the same."""

import itertools
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.task.agenttask import LABEL_ACTIVE
from coding_agent_core.task.reasons import Reason

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.preloaded import start_main
from tests.integration.operator.crash_proxy import kind_of, proxy_of
from tests.integration.operator.job_count import JobCount
from tests.integration.operator.pod_driver import DONE, RUNS, Ends, PodDriver, reported
from tests.integration.operator.world import QUICK, World, account

# Each takes a minute on a busy machine.
pytestmark = pytest.mark.timeout(600)

SIDE_BY_SIDE = 6
PARTS = 3
"""Each takes a share of the writes and of the kinds of requests, so that no test takes long."""
BY_CHANCE = {"GET agenttasks/*", "PATCH leases/*"}
"""A task is read by itself only where a watch was late, which no run can be made to have. A Lease is renewed
only in a run that takes long.

Where it comes, it is killed after it. Elsewhere nothing is lost: a read changes nothing.
"""


class Stage:
    """A namespace with an operator behind a proxy; plays the scenario again and again."""

    def __init__(self, plane: PlaneUnderTest, namespace: str, folder: Path) -> None:
        self.world = World(plane, namespace)
        self._numbers = itertools.count(1)
        self.proxy = proxy_of(plane.kubeconfig)
        self.proxy.__enter__()
        kubeconfig = account(plane, namespace, folder, self.proxy.url)
        config = folder / f"{namespace}.yaml"
        config.write_text(yaml.safe_dump({"operator": {"namespace": namespace}, "development": QUICK}))
        self._folder = folder
        self._environment = {
            **{key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")},
            "KUBECONFIG": str(kubeconfig),
            "CONFIG_FILE": str(config),
            "POD_NAME": "operator",
        }
        self._driver = PodDriver(plane, namespace, script)
        self._driver.__enter__()
        self._count = JobCount(self.world)
        self._count.__enter__()
        self._pid = 0

    def _start(self) -> int:
        log = self._folder / f"{self.world.namespace}.log"
        return start_main(["--mode", "operator"], env=self._environment, cwd=self._folder, log=log).pid

    def close(self) -> None:
        self._count.__exit__(None, None, None)
        self._driver.__exit__()
        self.proxy.__exit__()

    def play(self, fatal: int | str) -> tuple[dict[str, Any], str]:
        """The scenario, the operator dying after a request: its number, or the first of that kind.

        Returns:
            The end, and the request after which it died, empty if it did not.
        """
        number = next(self._numbers) * 10
        # As in a new namespace: nobody has ever had the Lease.
        self.world.plane.kubectl(
            *("-n", self.world.namespace, "delete", "lease", "coding-agent-operator", "--ignore-not-found")
        )
        retried = self.world.create(number + 1)
        cancelled = self.world.create(number + 2)
        self.proxy.arm(fatal, lambda: self._pid)
        self._pid = self._start()
        try:
            self._until_over(retried, cancelled)
            died = self.proxy.died_after if self.proxy.killed.is_set() else ""
        finally:
            if self._pid:
                _kill(self._pid)
                self._pid = 0
        return self._end(retried, cancelled), died

    def _until_over(self, retried: str, cancelled: str) -> None:
        asked = restarted = False

        def over() -> bool:
            nonlocal asked, restarted
            if self.proxy.killed.is_set() and not restarted:
                restarted = True
                self.proxy.disarm()
                self._pid = self._start()
            statuses = [self.world.task(name) for name in (retried, cancelled)]
            if not asked and f"{cancelled}-1" in self.world.jobs():
                self.world.patch(cancelled, cancel=True)
                asked = True
            ended = all(
                task.get("status", {}).get("phase") in ("Succeeded", "Cancelled") for task in statuses
            )
            jobs = self.world.jobs().values()
            return ended and all(LABEL_ACTIVE not in job.metadata.labels for job in jobs)

        self.world.until("the end of both tasks", lambda: over() or None)

    def _end(self, retried: str, cancelled: str) -> dict[str, Any]:
        """What the scenario ends with, without what differs from run to run."""
        jobs = self.world.jobs()
        self._count.catch_up()
        found: dict[str, Any] = {}
        for label, name in (("retried", retried), ("cancelled", cancelled)):
            status = self.world.status(name)
            found[label] = {
                "phase": status["phase"],
                "reason": status["reason"],
                "succeeded": status["conditions"][0]["status"],
                "attempt": status["attempt"],
                "attempts": [
                    (a["number"], a["outcome"], a["reason"], a["counted"]) for a in status["attempts"]
                ],
                "requests": status.get("result", {}).get("usage", {}).get("requests"),
                "jobs": sorted(job.removeprefix(name) for job in jobs if job.startswith(name)),
                # By their uids, as a watch of the test's own has seen them: also those that are gone.
                "made": sorted(
                    entry.removeprefix(name) for entry in self._count.order if entry.startswith(name)
                ),
                "released": all(
                    jobs[item].spec.ttl_seconds_after_finished is not None
                    for item in jobs
                    if item.startswith(name)
                ),
            }
        return found


def script(job: str) -> Ends | None:
    """Tasks with a 1 at the end fail once and then succeed; the others run until they are stopped."""
    item, attempt = job.split("-")[2], job.rsplit("-", 1)[-1]
    if item.endswith("2"):
        return RUNS
    return reported(Reason.MODEL_UNAVAILABLE, usage={"requests": 2}) if attempt == "1" else DONE


EXPECTED = {
    "retried": {
        "phase": "Succeeded",
        "reason": "Completed",
        "succeeded": "True",
        "attempt": "2/3",
        "attempts": [(1, "Failed", "ModelUnavailable", True), (2, "Succeeded", "Completed", True)],
        "requests": 2,
        "jobs": ["-1", "-2"],
        "made": ["-1", "-2"],
        "released": True,
    },
    "cancelled": {
        "phase": "Cancelled",
        "reason": "Cancelled",
        "succeeded": "False",
        "attempt": "1/3",
        "attempts": [(1, "Cancelled", "Cancelled", False)],
        "requests": None,
        "jobs": [],
        "made": ["-1"],
        "released": True,
    },
}


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_after_every_write_and_every_kind_of_request(
    plane: PlaneUnderTest, new_namespace: Callable[[str], str], tmp_path: Path, part: int
) -> None:
    stages = [Stage(plane, new_namespace("restricted"), tmp_path) for _ in range(SIDE_BY_SIDE)]
    try:
        end, died = stages[0].play(0)
        assert (end, died) == (EXPECTED, "")
        requests = stages[0].proxy.requests
        kinds = {kind_of(request) for request in requests}
        assert kinds >= {"POST jobs", "DELETE jobs/*", "PATCH jobs/*", "PATCH agenttasks/*/status"}
        own_kinds = {kind for kind in kinds if zlib.crc32(kind.encode()) % PARTS == part}
        writes = [number for number, request in enumerate(requests, 1) if not request.startswith("GET")]
        runs = play(stages, writes[part::PARTS])
        # The order of requests differs a little from run to run, so a kind may have been missed.
        runs += play(stages, sorted(own_kinds - {kind_of(died) for _, _, died in runs if died}))
    finally:
        for stage in stages:
            stage.close()
    assert {(fatal, died): end for fatal, end, died in runs if end != EXPECTED} == {}
    assert own_kinds - BY_CHANCE <= {kind_of(died) for _, _, died in runs if died}, (
        "it was killed after each kind of request"
    )


def play(stages: list[Stage], fatal: Iterable[int | str]) -> list[tuple[int | str, dict[str, Any], str]]:
    """The scenario once for each of the requests, on all stages side by side."""
    left, lock = iter(fatal), threading.Lock()

    def play_on(stage: Stage) -> list[tuple[int | str, dict[str, Any], str]]:
        played: list[tuple[int | str, dict[str, Any], str]] = []
        while True:
            with lock:
                each = next(left, None)
            if each is None:
                return played
            played.append((each, *stage.play(each)))

    with ThreadPoolExecutor(len(stages)) as pool:
        return [run for runs in pool.map(play_on, stages) for run in runs]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
