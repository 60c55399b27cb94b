"""The operator as its own operators see it: probes, metrics, restarts of what it stands on."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from coding_agent_core.task.reasons import Reason
from kubernetes.client.exceptions import ApiException

from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.crash_proxy import CrashProxy, proxy_of
from tests.integration.operator.pod_driver import DONE, RUNS, PodDriver, reported
from tests.integration.operator.world import ROOT, OperatorProcess, World, account

Start = Callable[..., OperatorProcess]


@pytest.fixture
def proxy(world: World) -> Iterator[CrashProxy]:
    with proxy_of(world.plane.kubeconfig) as made:
        yield made


def alive(world: World, process: OperatorProcess) -> None:
    """Wait until the watches have shown everything: on a busy machine they are behind for a moment."""
    world.until("the watches show all", lambda: process.probe("/livez") == (200, "ok") or None)


def test_metrics_tell_what_happened(world: World, pods: PodDriver, operator: Start) -> None:
    outcomes = {"1": reported(Reason.MODEL_UNAVAILABLE), "2": DONE}
    pods.script = lambda job: outcomes[job[-1]]
    process = operator()
    world.until_phase(world.create(7), "Succeeded")
    assert process.probe("/readyz") == (200, "ok")
    assert process.probe("/livez") == (200, "ok")
    # A test reads a status before the operator has the answer to its request, and counts.
    ended = 'coding_agent_tasks_ended_total{phase="Succeeded",reason="Completed"} 1.0'
    phases = f'coding_agent_tasks{{phase="Running",served_namespace="{world.namespace}"}}'

    def counted() -> str | None:
        status, text = process.probe("/metrics")
        return text if status == 200 and ended in text and phases in text else None

    text = world.until("the end is counted", counted)

    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is missing"
        return float(found.group(1))

    assert value('coding_agent_attempts_total{outcome="Failed",reason="ModelUnavailable"}') == 1
    assert value('coding_agent_attempts_total{outcome="Succeeded",reason="Completed"}') == 1
    assert value('coding_agent_tasks_accepted_total{origin="webhook"}') == 1
    assert value("coding_agent_retries_total") == 1
    assert value("coding_agent_queue_wait_seconds_count") == 1
    assert value('coding_agent_attempt_duration_seconds_count{outcome="Failed"}') == 1
    assert value('coding_agent_api_requests_total{status="201",verb="POST"}') > 2
    assert value("coding_agent_reconcile_errors_total") >= 0
    assert value("coding_agent_reconcile_duration_seconds_count") > 2


def test_a_dead_watch_is_noticed_and_work_goes_on_all_the_same(
    world: World, pods: PodDriver, proxy: CrashProxy, tmp_path: Path
) -> None:
    kubeconfig = account(world.plane, world.namespace, tmp_path, proxy.url)
    settings = {"development": {"relist_interval": 1.0}}
    process = OperatorProcess(kubeconfig, world.namespace, tmp_path, settings).start()
    try:
        pods.script = lambda _: RUNS
        world.until_phase(world.create(7), "Running")
        alive(world, process)
        proxy.deaf = True
        pods.script = lambda _: DONE
        other = world.create(8)
        world.until("it is noticed", lambda: "A watch is dead" in process.log() or None)
        world.until_phase(other, "Succeeded")
        proxy.deaf = False
        alive(world, process)
    finally:
        process.stop()


@pytest.mark.timeout(400)  # who follows the API server may ask it again after a minute only
def test_the_api_server_is_killed_and_comes_back(
    world: World, chaos_plane: PlaneUnderTest, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: RUNS
    process = operator()
    running = world.create(7)
    world.until_phase(running, "Running")
    chaos_plane.kill("kube-apiserver")
    chaos_plane.start("kube-apiserver")
    pods.script = lambda _: DONE
    waiting = world.create(8)
    world.until_phase(waiting, "Succeeded", timeout=150)
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until_phase(running, "Succeeded", timeout=150)
    alive(world, process)
    assert process.stop() == 0


def test_a_runtime_class_that_is_missing_is_named_and_nothing_starts_before_it_is_there(
    world: World, pods: PodDriver, operator: Start
) -> None:
    name = f"sandbox-{world.namespace}"
    subject = f"--serviceaccount={world.namespace}:coding-agent-operator"
    world.plane.kubectl("create", "clusterrole", name, "--verb=get", "--resource=runtimeclasses")
    world.plane.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", subject)
    process = operator(operator={"job": {"runtime_classes": {"untrusted": name}}})
    task = world.create(7)
    world.until("it is named", lambda: f"the cluster has no RuntimeClass {name};" in process.log() or None)
    assert process.probe("/readyz") == (503, "no namespace can be served")
    assert world.status(task).get("phase") != "Running"
    runtime = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}}
    world.plane.kubectl("apply", "-f", "-", stdin=json.dumps({**runtime, "handler": "sandbox"}))
    world.until_phase(task, "Succeeded")
    [pod] = world.plane.core.list_namespaced_pod(world.namespace, _request_timeout=60).items
    assert pod.spec.runtime_class_name == name


_DEFECTIVE_OPERATOR = """
import pathlib, runpy, sys
import coding_agent_operator.tasks.reconcile as module

plan_task, defect = module.plan_task, pathlib.Path(sys.argv.pop(1))

def defective(task, *others, **more):
    if defect.exists() and task.spec.source.number == 7:
        raise KeyError(f"token-of-somebody in {task.name}")
    return plan_task(task, *others, **more)

module.plan_task = defective
sys.argv[0] = "main.py"
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
"""Arguments: a file that is there as long as the operator has the defect, main.py, and its arguments."""


def test_a_defect_of_the_operator_is_shown_on_the_task_until_it_is_gone(
    world: World, pods: PodDriver, tmp_path: Path
) -> None:
    """It is planted into the operator, for one task. Others run."""
    defect = tmp_path / "defect"
    defect.touch()
    process = OperatorProcess(account(world.plane, world.namespace, tmp_path), world.namespace, tmp_path, {})
    process.command = [sys.executable, "-c", _DEFECTIVE_OPERATOR, str(defect), str(ROOT / "main.py")]
    process.command += ["--mode", "operator"]
    hurt, other = world.create(7), world.create(8)
    try:
        process.start()
        told = world.until("it is shown", lambda: world.status(hurt).get("conditions"))
        world.until_phase(other, "Succeeded")
        # The task's own change of status makes a watch event, which must not make a loop of retries.
        world.until("several tries failed", lambda: process.log().count("next try in") >= 4 or None)
        assert world.status(hurt)["conditions"] == told, "it is written once"
        assert "token-of-somebody" in process.log()
        defect.unlink()
        status = world.until_phase(hurt, "Succeeded")
    finally:
        process.stop()
    [shown] = told
    assert (shown["type"], shown["status"], shown["reason"]) == ("Succeeded", "Unknown", "OperatorDefect")
    assert "A defect in the operator (KeyError)" in shown["message"]
    assert "See the operator's log" in shown["message"]
    events = world.plane.core.list_namespaced_event(world.namespace, _request_timeout=60)
    assert "token-of-somebody" not in f"{events.items} {told}"
    assert world.events(hurt).count("OperatorDefect") == 1
    assert "OperatorDefect" not in str(status)


@pytest.mark.timeout(400)  # the next try is up to a minute later
def test_a_refusal_is_told_and_does_not_block_others(world: World, pods: PodDriver, operator: Start) -> None:
    """A quota lets no Job in; a limit of one must not be held by the task that was refused."""
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    world.plane.core.create_namespaced_resource_quota(world.namespace, quota)
    spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}
    probe = {"metadata": {"name": "probe"}, "spec": {"suspend": True, **spec}}

    def in_force() -> bool:
        try:
            world.plane.batch.create_namespaced_job(world.namespace, probe, dry_run="All")
        except ApiException as error:
            return bool(error.status == 403)
        return False

    world.until("the quota is in force", in_force)
    operator(limits={"global": 1})
    first, second = world.create(7), world.create(8, repository="octo/other")
    for name in (first, second):
        world.until("told", lambda name=name: "Refused" in world.events(name) or None)  # type: ignore[misc]
        told = world.until(
            "and stays told",
            lambda name=name: (  # type: ignore[misc]
                found if (found := world.status(name)).get("reason") == "Refused" else None
            ),
        )
        assert told["phase"] == "Queued"
        assert "exceeded quota: none" in told["conditions"][0]["message"]
    world.plane.core.delete_namespaced_resource_quota("none", world.namespace)
    for name in (first, second):
        world.until_phase(name, "Succeeded", timeout=120)
