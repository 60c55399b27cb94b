"""What comes late or is gone too soon: answers, Jobs, pods, their last words."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Cost, Usage
from coding_agent_testbed.cluster.access import KubectlError

from tests.integration.operator.crash_proxy import CrashProxy, proxy_of
from tests.integration.operator.pod_driver import RUNS, PodDriver, ended, reported
from tests.integration.operator.world import OperatorProcess, World, account

Start = Callable[..., OperatorProcess]
FINALIZER = "test.example/kubelet"
"""Keeps a deleted pod until the test, in the kubelet's place, has ended its containers."""


@pytest.fixture
def proxy(world: World) -> Iterator[CrashProxy]:
    with proxy_of(world.plane.kubeconfig) as made:
        yield made


def hold_pod(world: World, job: str) -> str:
    """From now on the Job's pod stays when it is deleted; its name."""

    def there() -> str | None:
        found = world.plane.core.list_namespaced_pod(
            world.namespace, label_selector=f"batch.kubernetes.io/job-name={job}", _request_timeout=60
        )
        # Once it runs, nothing but the test writes its status.
        return next((str(pod.metadata.name) for pod in found.items if pod.status.phase == "Running"), None)

    name = world.until("the pod runs", there)
    _finalizers(world, name, "add")
    return name


def let_pod_go(world: World, name: str) -> None:
    _finalizers(world, name, "remove")


def _finalizers(world: World, name: str, what: str) -> None:
    def patched() -> bool:
        known = world.plane.core.read_namespaced_pod(name, world.namespace, _request_timeout=60)
        others = [finalizer for finalizer in known.metadata.finalizers or [] if finalizer != FINALIZER]
        wanted = [*others, FINALIZER] if what == "add" else others
        # A merge patch of the list as it was read: Kubernetes' own finalizer stays.
        body: dict[str, Any] = {
            "metadata": {"finalizers": wanted, "resourceVersion": known.metadata.resource_version}
        }
        try:
            world.plane.kubectl(
                "-n", world.namespace, "patch", "pod", name, "--type=merge", "-p", json.dumps(body)
            )
        except KubectlError as error:
            if "Conflict" in error.stderr:  # the Job controller wrote in between
                return False
            raise
        return True

    world.until("the finalizers are changed", patched)


def is_being_deleted(world: World, pod: str) -> bool:
    found = world.plane.core.read_namespaced_pod(pod, world.namespace, _request_timeout=60)
    return found.metadata.deletion_timestamp is not None


def test_a_job_that_comes_after_its_task_was_cancelled_is_deleted(
    world: World, pods: PodDriver, proxy: CrashProxy, tmp_path: Path
) -> None:
    """Its creation gets no answer; a person cancels; then the API server does it after all."""
    pods.script = lambda _: RUNS
    kubeconfig = account(world.plane, world.namespace, tmp_path, proxy.url)
    settings = {"operator": {"lease_duration": 9}}
    proxy.held = "POST /apis/batch"
    process = OperatorProcess(kubeconfig, world.namespace, tmp_path, settings).start()
    try:
        name = world.create(7)
        asked = f"POST /apis/batch/v1/namespaces/{world.namespace}/jobs"
        world.until("no answer", lambda: f"does not answer {asked}" in process.log())
        world.patch(name, cancel=True)
        world.until_phase(name, "Cancelled")
        assert asked in proxy.requests
        assert world.jobs() == {}
        proxy.held = ""
        gone = f"DELETE /apis/batch/v1/namespaces/{world.namespace}/jobs/{name}-1"
        world.until("the late Job is deleted", lambda: gone in proxy.requests)
        world.until("and gone", lambda: not world.jobs())
        assert world.status(name)["phase"] == "Cancelled"
    finally:
        proxy.held = ""
        process.stop()


def test_the_last_words_of_a_deleted_pod_are_kept(world: World, pods: PodDriver, operator: Start) -> None:
    """The kubelet writes how a container ended and lets the pod go at once."""
    pods.script = lambda _: RUNS
    operator()
    name = world.create(7)
    world.until_phase(name, "Running")
    pod = hold_pod(world, f"{name}-1")
    world.patch(name, cancel=True)
    world.until("the pod is being deleted", lambda: is_being_deleted(world, pod))
    said = reported(
        Reason.CANCELLED,
        branch="coding-agent/issue-7",
        usage=Usage(requests=3, cost=Cost(amount="0.10", currency="USD")),
    )
    world.plane.core.patch_namespaced_pod_status(pod, world.namespace, {"status": ended(said)})
    let_pod_go(world, pod)
    status = world.until_phase(name, "Cancelled")
    assert status["result"]["branch"] == "coding-agent/issue-7"
    assert status["result"]["usage"]["requests"] == 3


def test_nothing_takes_the_place_of_a_pod_that_goes_on_without_its_job(
    world: World, pods: PodDriver, operator: Start
) -> None:
    """`kubectl delete job` deletes in the background: the Job is gone at once, its pod still pushes."""
    pods.script = lambda _: RUNS
    operator(development={"relist_interval": 0.5})
    name = world.create(7)
    world.until_phase(name, "Running")
    pod = hold_pod(world, f"{name}-1")
    world.plane.kubectl(
        "-n", world.namespace, "delete", "job", f"{name}-1", "--cascade=background", "--wait=false"
    )
    world.until("the pod is being deleted", lambda: is_being_deleted(world, pod))
    other = world.create(8)
    # Several complete looks later.
    world.until_phase(other, "Running")
    world.patch(other, cancel=True)
    world.until_phase(other, "Cancelled")
    assert f"{name}-2" not in world.jobs()
    assert world.status(name)["phase"] == "Running"
    let_pod_go(world, pod)
    world.until("the next attempt", lambda: f"{name}-2" in world.jobs())
    first, second = world.until(
        "both recorded", lambda: found if len(found := world.status(name)["attempts"]) == 2 else None
    )
    assert (first["reason"], first["counted"], second["number"]) == ("JobDeleted", False, 2)


@pytest.mark.timeout(400)  # the garbage collector learns of a new CRD within half a minute
def test_the_pod_of_a_deleted_task_keeps_its_place_and_its_item(
    world: World, pods: PodDriver, operator: Start
) -> None:
    """`kubectl delete agenttask` takes task and Job at once; the pod works on for its grace time."""
    pods.script = lambda _: RUNS
    process = operator(development={"relist_interval": 0.5}, limits={"global": 1})
    name = world.create(7)
    world.until_phase(name, "Running")
    pod = hold_pod(world, f"{name}-1")
    world.plane.kubectl("-n", world.namespace, "delete", "agt", name, "--wait=false")
    world.until("the pod is being deleted", lambda: is_being_deleted(world, pod))
    world.until("its Job is gone", lambda: not world.jobs())
    same, other = world.create(7), world.create(8)
    world.until("the same item", lambda: world.status(same).get("reason") == "WaitingForRun")
    world.until_phase(other, "Queued")
    # An operator that starts anew sees it too.
    process.stop()
    process.start()
    world.until("a pass of the new operator", lambda: process.log().count("Listed") >= 2)
    again = world.create(9)
    world.until_phase(again, "Queued")
    assert world.jobs() == {}
    let_pod_go(world, pod)
    world.until("one starts", lambda: len(world.jobs()) == 1)
