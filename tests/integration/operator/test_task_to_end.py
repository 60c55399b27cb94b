"""A task becomes Jobs and comes to an end, whatever people and the cluster do meanwhile."""

from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_core.task.agenttask import LABEL_ACTIVE
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Usage
from coding_agent_operator.cluster.observed import KUEUE_NOT_INSTALLED

from tests.integration.operator.pod_driver import DONE, RUNS, NotSetUp, PodDriver, reported
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]


def test_a_task_becomes_a_job_and_succeeds(world: World, pods: PodDriver, operator: Start) -> None:
    pods.script = lambda _: reported(
        Reason.COMPLETED,
        "Opened a pull request.",
        branch="coding-agent/7",
        change_url="https://github.com/octo/demo/pull/8",
        usage=Usage(requests=3, input_tokens=100, output_tokens=20),
    )
    process = operator()
    name = world.create(7)
    status = world.until_phase(name, "Succeeded")
    assert [(a["number"], a["job"], a["outcome"]) for a in status["attempts"]] == [
        (1, f"{name}-1", "Succeeded")
    ]
    assert status["result"]["changeURL"] == "https://github.com/octo/demo/pull/8"
    assert status["result"]["usage"]["inputTokens"] == 100
    assert status["attempt"] == "1/3"
    assert world.until("its Event", lambda: world.events(name)) == ["Succeeded"]
    assert world.plane.kubectl("-n", world.namespace, "wait", "--for=condition=Succeeded", f"agt/{name}")
    released = world.until(
        "released",
        lambda: next((job for job in world.jobs().values() if LABEL_ACTIVE not in job.metadata.labels), None),
    )
    assert released.spec.ttl_seconds_after_finished == 86400, "logs stay for a day"
    assert process.stop() == 0


def test_a_suspended_task_waits_and_goes_on(world: World, pods: PodDriver, operator: Start) -> None:
    pods.script = lambda _: RUNS
    operator()
    name = world.create(7)
    world.until_phase(name, "Running")
    world.patch(name, suspend=True)
    world.until_phase(name, "Suspended")
    assert not world.jobs()
    pods.script = lambda _: DONE
    world.patch(name, suspend=False)
    status = world.until_phase(name, "Succeeded")
    assert [(a["outcome"], a["counted"]) for a in status["attempts"]] == [
        ("Disrupted", False),
        ("Succeeded", True),
    ]


def test_a_new_run_waits_for_the_one_that_is_cancelled(
    world: World, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: RUNS
    operator()
    first = world.create(7)
    world.until_phase(first, "Running")
    second = world.create(7, run=2)
    world.answer(second)
    status = world.until_phase(second, "Queued")
    assert status["reason"] == "WaitingForRun"
    assert first in status["conditions"][0]["message"]
    world.patch(first, cancel=True)
    world.until_phase(first, "Cancelled")
    world.until_phase(second, "Running")


def test_a_foreign_job_is_left_alone(world: World, pods: PodDriver, operator: Start) -> None:
    name = world.create(7, suspend=True)
    foreign = {
        "metadata": {"name": f"{name}-1"},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}},
        },
    }
    world.plane.batch.create_namespaced_job(world.namespace, foreign)
    operator()
    world.patch(name, suspend=False)
    status = world.until_phase(name, "Succeeded")
    assert [a["job"] for a in status["attempts"]] == [f"{name}-2"]
    assert "ForeignJob" in world.events(name)
    assert world.jobs()[f"{name}-1"].spec.suspend is True


def test_a_status_edited_by_hand_is_repaired(world: World, pods: PodDriver, operator: Start) -> None:
    pods.script = lambda _: RUNS
    operator()
    name = world.create(7)
    before = world.until_phase(name, "Running")
    world.patch_status(name, {"phase": "Suspended", "attempt": "9/9", "queuePosition": 4})
    assert world.until_phase(name, "Running") == before
    world.patch_status(name, {"phase": "Failed"})  # with which no watch shows it any more
    assert world.until_phase(name, "Running") == before
    world.patch_status(name, None)
    after = world.until_phase(name, "Running")
    assert [a["job"] for a in after["attempts"]] == [f"{name}-1"]
    pods.script = lambda _: DONE
    world.plane.kubectl("-n", world.namespace, "annotate", "pods", "--all", "look=again")
    world.until_phase(name, "Succeeded")


@pytest.mark.timeout(400)  # the garbage collector learns of a new CRD within half a minute
def test_what_ended_is_deleted_after_its_time(world: World, pods: PodDriver, operator: Start) -> None:
    operator(development={"keep_finished": 1, "sweep_interval": 0.3})
    unreported, name = world.create(8), world.create(7)
    for entry in (unreported, name):
        world.until_phase(entry, "Succeeded")
    world.plane.kubectl("-n", world.namespace, "label", "agt", name, "coding-agent.dev/reported=true")
    world.until("gone", lambda: name not in {t["metadata"]["name"] for t in world.tasks()} or None)
    world.until("its Jobs gone", lambda: set(world.jobs()) == {f"{unreported}-1"} or None, timeout=120)
    assert world.status(unreported)["phase"] == "Succeeded", "nobody has told the issue yet"


def test_it_is_said_and_going_back_is_as_documented(world: World, pods: PodDriver, operator: Start) -> None:
    process = operator(queue={"engine": "kueue"}, development={"relist_interval": 0.5})
    name = world.create(1)

    def said() -> bool | None:
        conditions = world.status(name).get("conditions", [])
        return any(condition["message"] == KUEUE_NOT_INSTALLED for condition in conditions) or None

    world.until("the reason", said)
    status = world.status(name)
    assert (status["phase"], status["reason"]) == ("Queued", "WaitingForKueue")
    assert "Kueue is not installed" in world.plane.kubectl("-n", world.namespace, "describe", "agt", name)
    assert process.stop() == 0
    operator(queue={"engine": "native"})
    world.plane.kubectl("-n", world.namespace, "delete", "job", f"{name}-1")
    world.until_phase(name, "Succeeded")


KUBELET = (
    'MountVolume.SetUp failed for volume "credentials" : [secret "coding-agent-github" not found, '
    'secret "coding-agent-model" not found]'
)
FAST: dict[str, Any] = {"pod_check_interval": 0.2}


def test_it_says_what_the_container_runtime_refuses(world: World, pods: PodDriver, operator: Start) -> None:
    refusal = 'Failed to create pod sandbox: rpc error: no runtime for "gvisor" is configured'
    pods.script = lambda _: NotSetUp(refusal, "FailedCreatePodSandBox")
    operator(development=FAST)
    name = world.create(1)
    status = world.until(
        "says what it waits for",
        lambda: found if (found := world.status(name)).get("reason") == "PodNotReadyToStart" else None,
    )
    assert (status["phase"], refusal in status["conditions"][0]["message"]) == ("Starting", True)
    pods.script = lambda _: DONE
    world.until_phase(name, "Succeeded")


def test_it_names_the_secrets_and_goes_on_once_they_are_there(
    world: World, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: NotSetUp(KUBELET)
    process = operator(development=FAST)
    name = world.create(1)
    status = world.until(
        "says what it waits for",
        lambda: found if (found := world.status(name)).get("reason") == "SecretMissing" else None,
    )
    assert status["phase"] == "Starting"
    assert status["conditions"][0]["message"] == (
        "Attempt 1 has not started yet. The attempt is waiting for a Secret that does not exist. "
        "Missing: coding-agent-github, coding-agent-model. If this lasts for 900 s, another attempt starts."
    )
    world.until("its Event", lambda: "SecretMissing" in world.events(name) or None)
    waiting = (
        f'coding_agent_tasks_not_starting{{reason="SecretMissing",served_namespace="{world.namespace}"}} '
    )
    world.until("its metric", lambda: f"{waiting}1.0" in process.probe("/metrics")[1] or None)
    pods.script = lambda _: DONE
    assert world.until_phase(name, "Succeeded")["attempt"] == "1/3"
    world.until("its metric is back", lambda: f"{waiting}0.0" in process.probe("/metrics")[1] or None)
    assert world.events(name).count("SecretMissing") == 1
