"""Attempts through Kueue itself, with the operator under its own account and Kueue under its own.

Kueue is as its release installs it, webhooks included, beside a control plane without a node; pods run and
end as the test says.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.cluster.access import KubectlError

from tests.fixtures.cluster import KueueUnderTest
from tests.fixtures.crd import install
from tests.integration.operator.pod_driver import DONE, RUNS
from tests.integration.operator.world import ACCOUNT, OperatorProcess, account
from tests.sweep.kueue.kueue_place import SETTINGS, Admissions, Kubelet, Place, of_another_team

# Kueue may have to be built first.
pytestmark = pytest.mark.timeout(1800)

Start = Callable[[], OperatorProcess]
NO_QUOTA = "insufficient unused quota for cpu"


@pytest.fixture(scope="module")
def plane(control_plane_with_kueue: KueueUnderTest) -> KueueUnderTest:
    install(control_plane_with_kueue)
    return control_plane_with_kueue


@pytest.fixture
def place(plane: KueueUnderTest, namespace: str) -> Iterator[Place]:
    place = Place(plane, namespace)
    yield place
    place.kueue.start()
    place.clear()


@pytest.fixture
def pods(place: Place) -> Iterator[Kubelet]:
    with Kubelet(place, lambda _: RUNS) as driver:
        yield driver


@pytest.fixture
def admissions(place: Place) -> Iterator[Admissions]:
    with Admissions(place) as seen:
        yield seen


@pytest.fixture
def operator(place: Place, tmp_path: Path) -> Iterator[Start]:
    """Start the operator with the documented settings; in the end nothing was forbidden to it."""
    with ExitStack() as stack:

        def start() -> OperatorProcess:
            kubeconfig = account(place.plane, place.namespace, tmp_path)
            settings: dict[str, Any] = {**SETTINGS, "development": {"relist_interval": 0.5}}
            process = OperatorProcess(kubeconfig, place.namespace, tmp_path, settings).start()
            stack.callback(process.stop)
            return process

        yield start
    assert place.refused(ACCOUNT) == []


def finish(place: Place, pods: Kubelet, *jobs: str) -> None:
    """Let the pods of these Jobs succeed, those that run and those to come."""
    before = pods.script
    pods.script = lambda job: DONE if job in jobs else before(job)
    try:
        place.plane.kubectl("-n", place.namespace, "annotate", "pods", "--all", "look=again", "--overwrite")
    except KubectlError as error:
        if "NotFound" not in error.stderr:  # one has gone meanwhile; the driver lists all of them soon
            raise


def test_quota_for_two_of_three_a_cancelled_one_leaves_and_the_next_follows(
    place: Place, pods: Kubelet, admissions: Admissions, operator: Start
) -> None:
    place.queues()
    process = operator()
    names = [place.create(n) for n in (1, 2, 3)]
    place.until("two run", lambda: len(place.running()) == 2 or None)
    (waiting,) = set(names) - set(place.running())
    words = place.until("Kueue's words", lambda: place.waits(waiting, NO_QUOTA))
    assert words.startswith("Kueue: ")
    status = place.status(waiting)
    assert (status["attempt"], status["attempts"], status.get("queuePosition")) == ("0/3", [], None)
    place.until("the watch has shown all three", lambda: len(admissions.first) == 3 or None)
    for job in (f"{name}-1" for name in names):
        assert admissions.first[job]["spec"]["suspend"] is True
        assert admissions.first[job]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "coding-agent"
    # The operator is killed while one waits: nothing is made twice.
    process.stop(signal.SIGKILL)
    process.start()
    first, second = place.running()
    later = place.create(names.index(waiting) + 1, run=2)
    place.answer(later)
    place.until("the next run waits", lambda: place.because(later, "WaitingForRun"))
    assert f"{waiting}-1" in place.workloads()
    place.patch(waiting, cancel=True)
    status = place.until_phase(waiting, "Cancelled")
    assert status["attempts"] == [], "it never ran"
    place.until("no workload", lambda: f"{waiting}-1" not in place.workloads() or None)
    assert f"{waiting}-1" not in place.jobs()
    place.until("the next run's turn", lambda: place.waits(later, NO_QUOTA))
    finish(place, pods, f"{first}-1")
    place.until_phase(later, "Running")
    assert place.status(later)["attempt"] == "1/3"
    place.until_phase(first, "Succeeded")
    finish(place, pods, f"{second}-1", f"{later}-1")
    for name in (second, later):
        assert place.until_phase(name, "Succeeded")["attempt"] == "1/3"
    admissions.catch_up()
    assert admissions.most <= 2, "the quota is used, as the start showed, and never exceeded"
    assert set(admissions.first) == {f"{name}-1" for name in (*names, later)}


def test_a_preempted_attempt_is_not_counted_and_goes_on(
    place: Place, pods: Kubelet, admissions: Admissions, operator: Start
) -> None:
    place.queues(cohortName=place.cohort)
    place.lend_from_another_team()
    operator()
    names = [place.create(n) for n in (1, 2, 3)]
    place.until("three run, one with lent quota", lambda: len(place.running()) == 3 or None)
    place.plane.apply(of_another_team(place.namespace, "training"))
    place.until("two run", lambda: len(place.running()) == 2 or None)
    (preempted,) = set(names) - set(place.running())
    place.until("an Event", lambda: "Preempted" in place.events(preempted) or None)
    place.until("Kueue's words", lambda: place.waits(preempted, NO_QUOTA))
    status = place.status(preempted)
    assert status["attempt"] == "1/3"
    assert [(a["number"], a.get("outcome")) for a in status["attempts"]] == [(1, None)]
    finish(place, pods, "training")
    status = place.until_phase(preempted, "Running")
    attempts = [(a["number"], a["job"], a.get("outcome")) for a in status["attempts"]]
    assert attempts == [(1, f"{preempted}-1", None)]
    finish(place, pods, *(f"{name}-1" for name in names))
    for name in names:
        status = place.until_phase(name, "Succeeded")
        assert (status["attempt"], len(status["attempts"])) == ("1/3", 1)
    admissions.catch_up()
    assert set(admissions.first) == {*(f"{name}-1" for name in names), "training"}
