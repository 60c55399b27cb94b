"""An attempt that needs another pod: the next one gets it at once, and it does not count."""

from __future__ import annotations

from coding_agent_core.environment import Environment, Service
from coding_agent_core.reasons import Reason
from coding_agent_core.settings.job import JobTemplate
from coding_agent_operator.job import build_job
from coding_agent_operator.task_state import MAX_RESTARTS, Stage, task_state

from tests.unit.operator.making import NOW, POLICY, failed, said, status, task

ASKED = Environment(
    image="registry.example.com/tools:1",
    services=(Service(name="db", image="registry.example.com/db:1", port=5432, folders=("/data",)),),
)


def test_it_does_not_count_and_the_next_attempt_waits_for_nothing() -> None:
    told = said(Reason.ENVIRONMENT_CHANGED, environment=ASKED)
    state = task_state(task(), [failed(**told)], NOW, POLICY)
    assert (state.stage, state.environment) == (Stage.READY, ASKED)
    assert [attempt.counted for attempt in state.attempts] == [False]


def test_a_task_whose_environment_changes_again_and_again_fails() -> None:
    first = task_state(task(), [failed(**said(Reason.ENVIRONMENT_CHANGED))], NOW, POLICY).attempts[0]
    attempts = [first.model_copy(update={"number": number}) for number in range(1, MAX_RESTARTS + 2)]
    assert task_state(task(status(*attempts[:-1])), [], NOW, POLICY).stage is Stage.READY
    assert task_state(task(status(*attempts)), [], NOW, POLICY).stage is Stage.ENDED


def test_the_pod_has_its_image_and_services_before_the_workspace() -> None:
    pod = build_job(task(), 2, JobTemplate(), environment=ASKED)["spec"]["template"]["spec"]
    *_, service, workspace = pod["initContainers"]
    assert (workspace["name"], workspace["image"]) == ("workspace", ASKED.image)
    assert (service["name"], service["restartPolicy"]) == ("service-db", "Always")
    assert service["startupProbe"]["tcpSocket"] == {"port": 5432}
    assert [mount["mountPath"] for mount in service["volumeMounts"]] == ["/tmp", "/data"]
    users = {one["securityContext"]["runAsUser"] for one in (*pod["containers"], service, workspace)}
    assert len(users) == 3
    assert service["securityContext"]["readOnlyRootFilesystem"]
