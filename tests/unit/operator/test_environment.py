"""An attempt that needs another pod: the next one gets it at once, and it does not count."""

from coding_agent_core.settings.job_settings import SERVICE_USERS, WORKSPACE_USERS, JobTemplate
from coding_agent_core.task.environment import Environment, Service
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_operator.jobs.job import build_job
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task
from coding_agent_operator.tasks.state import MAX_RESTARTS, Stage, task_state

from tests.unit.operator.making import NOW, POLICY, attempt, failed, said, status, task

ASKED = Environment(
    image="registry.example.com/tools:1",
    services=(Service(name="db", image="registry.example.com/db:1", port=5432, folders=("/data",)),),
)


def test_it_does_not_count_and_the_next_attempt_waits_for_nothing() -> None:
    told = said(Reason.ENVIRONMENT_CHANGED, environment=ASKED)
    state = task_state(task(), [failed(**told)], NOW, POLICY)
    assert (state.stage, state.environment) == (Stage.READY, ASKED)
    assert [attempt.counted for attempt in state.attempts] == [False]


def test_without_its_file_a_repository_gets_the_installations_own_pod_again() -> None:
    known = task(status(attempt(), environment=ASKED))
    told = said(Reason.ENVIRONMENT_CHANGED, environment=Environment())
    state = task_state(known, [failed(**told)], NOW, POLICY)
    assert (state.stage, state.environment) == (Stage.READY, None)


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
    assert service["securityContext"]["readOnlyRootFilesystem"]


def test_what_is_not_allowed_ends_the_task_and_no_pod_is_made() -> None:
    told = failed(**said(Reason.ENVIRONMENT_CHANGED, environment=ASKED))
    start = SchedulingDecision(start=True)
    assert plan_task(task(), [told], start, NOW, POLICY, environment_refusal=lambda _: None).create == 2
    plan = plan_task(
        task(), [told], start, NOW, POLICY, environment_refusal=lambda asked: f"no {asked.image}"
    )
    assert plan.create is None
    assert plan.status is not None
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, "EnvironmentRefused")
    assert plan.status.conditions[0].message == "no registry.example.com/tools:1"


def test_services_have_a_user_that_no_workspace_has() -> None:
    """The kernel counts processes by user, and a workspace must keep its own."""

    def users(number: int, **template: object) -> list[int]:
        made = JobTemplate.model_validate(template)
        pod = build_job(task(), number, made, environment=ASKED)["spec"]["template"]["spec"]
        containers = (pod["initContainers"][-2], *pod["containers"], pod["initContainers"][-1])
        assert all(
            one["securityContext"]["runAsGroup"] == one["securityContext"]["runAsUser"] for one in containers
        )
        return [one["securityContext"]["runAsUser"] for one in containers]

    assert not set(SERVICE_USERS) & set(WORKSPACE_USERS)
    services = {users(number)[0] for number in range(1, 41)}
    assert len(services) > 35
    assert services <= set(SERVICE_USERS)
    taken = users(1)[0]
    agent = {"containers": [{"name": "agent", "securityContext": {"runAsUser": taken}}]}
    assert len(set(users(1, pod_template={"spec": agent}))) == 3
    group = {"securityContext": {"fsGroup": taken}}
    assert users(1, pod_template={"spec": group})[0] != taken


def test_where_the_cluster_assigns_users_a_service_names_none() -> None:
    pod = build_job(task(), 1, JobTemplate(fixed_ids=False), environment=ASKED)["spec"]["template"]["spec"]
    assert not {"runAsUser", "runAsGroup"} & set(pod["initContainers"][-2]["securityContext"])
