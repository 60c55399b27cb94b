"""Readers bear whatever is stored."""

from typing import Any

import pytest
from coding_agent_core.task.agenttask import AgentTask, UnreadableTaskError
from coding_agent_core.task.model import Phase
from coding_agent_operator.cluster.observed import missing_secrets, read_job, read_pod
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task

from tests.unit.operator.making import NOW, POLICY, task_body

GOOD = {"number": 1, "job": "j-1", "startTime": "2026-01-01T00:00:00Z"}
EDITED: list[Any] = [
    {"phase": "Dreaming"},
    {"phase": "Succeeded"},
    {"attempts": "many"},
    {"attempts": [{"number": "x"}, GOOD]},
    {"attempts": [GOOD, GOOD]},
    {"conditions": [{"type": "Succeeded"}]},
    {"conditions": {"type": "Succeeded"}},
    {"result": 7},
    {"nextAttemptTime": "soon"},
    {"queuePosition": -4, "attempt": 3},
    {"newInV2": {"a": 1}},
    "everything",
    {},
]


@pytest.mark.parametrize("raw", EDITED, ids=str)
def test_a_status_edited_by_hand_is_read_and_repaired(raw: Any) -> None:
    task = AgentTask.of({**task_body(), "status": raw})
    assert not task.ended, "a phase alone ends nothing"
    plan = plan_task(task, [], SchedulingDecision(position=1), NOW, POLICY)
    assert plan.status is not None
    repaired = AgentTask.of({**task_body(), "status": plan.status.to_wire()})
    assert repaired.intact
    assert plan_task(repaired, [], SchedulingDecision(position=1), NOW, POLICY).status is None


def test_a_task_of_another_release_is_named() -> None:
    body = task_body()
    body["spec"]["source"]["platform"] = "gerrit"
    with pytest.raises(UnreadableTaskError, match=body["metadata"]["name"]):
        AgentTask.of(body).compact()


def test_a_job_is_terminal_by_its_conditions_alone() -> None:
    meta = {"name": "t-1", "uid": "u", "resourceVersion": "1"}
    assert not read_job({"metadata": meta, "status": {"failed": 1}}).finished
    interim = [{"type": "FailureTarget", "status": "True"}, {"type": "SuccessCriteriaMet", "status": "True"}]
    assert not read_job({"metadata": meta, "status": {"conditions": interim}}).finished
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    assert read_job({"metadata": meta, "status": {"conditions": [failed]}}).failure == "DeadlineExceeded"
    assert not read_job(
        {"metadata": meta, "status": {"conditions": [{**failed, "status": "False"}]}}
    ).finished


def test_a_pod_speaks_through_its_agent_container() -> None:
    pod = read_pod(
        {
            "metadata": {"name": "p"},
            "status": {
                "phase": "Pending",
                "initContainerStatuses": [
                    {"name": "workspace", "state": {"waiting": {"reason": "ErrImagePull"}}}
                ],
                "containerStatuses": [
                    {"name": "proxy", "state": {"terminated": {"exitCode": 9}}},
                    {"name": "agent", "state": {"waiting": {"reason": "PodInitializing"}}},
                ],
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
            },
        }
    )
    assert (pod.waiting, pod.exit_code, pod.unschedulable) == ("ErrImagePull", None, True)


def test_phases_end_only_by_conditions() -> None:
    condition = {
        "type": "Succeeded",
        "status": "True",
        "reason": "Completed",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    task = AgentTask.of({**task_body(), "status": {"phase": "Queued", "conditions": [condition]}})
    assert task.ended
    plan = plan_task(task, [], SchedulingDecision(), NOW, POLICY)
    assert plan.status is not None
    assert plan.status.phase is Phase.SUCCEEDED


def test_a_sidecar_that_starts_again_is_no_reason_to_give_a_running_attempt_up() -> None:
    sidecar = {"name": "workspace", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    starting = {"name": "agent", "state": {"waiting": {"reason": "PodInitializing"}}}
    working = {"name": "agent", "state": {"running": {"startedAt": "2026-01-02T12:00:00Z"}}}
    for agent, waiting in ((starting, "CrashLoopBackOff"), (working, "")):
        status = {"phase": "Running", "initContainerStatuses": [sidecar], "containerStatuses": [agent]}
        assert read_pod({"metadata": {"name": "p"}, "status": status}).waiting == waiting


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ([], ()),
        (['MountVolume.SetUp failed for volume "c" : secret "forge-token" not found'], ("forge-token",)),
        (['MountVolume.SetUp failed : [secret "b" not found, secret "a" not found]'], ("a", "b")),
        (['secret "b" not found', 'secret "a" not found', "timed out waiting"], ("a",)),
        (['MountVolume.SetUp failed for volume "config" : configmap "c" not found'], ()),
    ],
)
def test_the_secrets_that_a_kubelet_misses_are_named(messages: list[str], names: tuple[str, ...]) -> None:
    assert missing_secrets(messages) == names


def test_an_init_container_that_failed_is_named_with_its_last_words() -> None:
    failed = {"terminated": {"exitCode": 1, "reason": "Error", "message": "there is no git here\n"}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    status = {
        "phase": "Failed",
        "initContainerStatuses": [
            {"name": "workspace-program", "state": failed},
            {"name": "workspace", "state": waiting},
        ],
        "containerStatuses": [{"name": "agent", "state": waiting}],
    }
    pod = read_pod({"metadata": {"name": "p"}, "status": status})
    assert pod.not_prepared == "workspace-program, exit code 1: there is no git here"
    assert pod.exit_code is None


def test_what_can_be_read_is_kept() -> None:
    task = AgentTask.of({**task_body(), "status": {"phase": "Dreaming", "attempts": [GOOD, {"number": 0}]}})
    assert [attempt.number for attempt in task.status.attempts] == [1]
    assert task.status.phase is None
