"""Which evidence pods a task gets, what their ends mean, and what their Jobs lack."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.settings.attempt_settings import ServiceResources
from coding_agent_core.settings.connections import Egress
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.operator import Budgets
from coding_agent_core.task.agenttask import LABEL_VERIFY, AgentTask, OutcomeType, Status, TaskResult
from coding_agent_core.task.egress import WORKSPACE_PROXY
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import REASONS, PodReason
from coding_agent_core.task.usage import Allowance
from coding_agent_core.task.verification import (
    MAX_TRIES,
    VERIFY_VARIABLE,
    Evidence,
    EvidenceState,
    Side,
    VerifyInput,
    VerifyReport,
    VerifyResult,
    verified,
)
from coding_agent_operator.cluster.observed import (
    TASK_PODS,
    Job,
    Pod,
    evidence_job_name,
    read_job,
    read_pod,
)
from coding_agent_operator.jobs.evidence_job import build_evidence_job
from coding_agent_operator.jobs.job import build_job, with_egress
from coding_agent_operator.tasks.budgets import reserved
from coding_agent_operator.tasks.plan import Plan, SchedulingDecision, plan_task
from coding_agent_operator.tasks.state import Stage, stage_of

from tests.unit.operator.making import NOW, POLICY, ago, attempt, task

HEAD, BASE = "a" * 40, "b" * 40
LIMIT = timedelta(hours=6)
PUSHED = TaskResult(branch="coding-agent/issue-7", commit=HEAD, verify=VerifyReport(commands=1))
GREEN = VerifyResult(commit=HEAD, commands=(verified("make test", 0, 1, "fine"),))
RED = VerifyResult(commit=HEAD, commands=(verified("make test", 1, 1, "1 failed"),))
ON_BASE = GREEN.model_copy(update={"commit": BASE})


def done(**fields: Any) -> Status:
    first = attempt(1, OutcomeType.SUCCEEDED, reason="Completed")
    return Status(attempts=(first,), **{"result": PUSHED, **fields})


def evidence_job(side: Side = Side.HEAD, number: int = 1, **fields: Any) -> Job:
    name = evidence_job_name(task().name, side, number)
    plain: dict[str, Any] = {
        "name": name,
        "uid": name,
        "owner": "uid-1",
        "task": task().name,
        "number": None,
        "created": ago(20),
        "labels": {},
        "verify": (side, number),
    }
    return Job(**(plain | fields))


def left(result: VerifyResult | None, side: Side = Side.HEAD, number: int = 1, **fields: Any) -> Job:
    """A Job whose pod ended with exit code 0."""
    pod = Pod("p", "Succeeded", ago(20), exit_code=0, verified=result)
    return evidence_job(side, number, **{"complete": True, "pods": (pod,), "finished_at": ago(1), **fields})


def broken(side: Side = Side.HEAD, number: int = 1, **fields: Any) -> Job:
    pod = Pod("p", "Failed", ago(20), **{"disruption": "EvictionByEvictionAPI", **fields})
    return evidence_job(side, number, failure="BackoffLimitExceeded", pods=(pod,), finished_at=ago(1))


def plan(given: AgentTask, jobs: Sequence[Job] = (), limit: timedelta | None = LIMIT) -> Plan:
    return plan_task(given, jobs, SchedulingDecision(), NOW, POLICY, evidence_limit=limit)


def followed(*jobs: Job, status: Status | None = None) -> tuple[list[tuple[Side, int]], Status]:
    """Plan until nothing changes, while Jobs that are created end as these; the pods and the status."""
    ends = {job.verify: job for job in jobs}
    there: list[Job] = []
    made: list[tuple[Side, int]] = []
    known = status or done()
    for _ in range(40):
        found = plan(task(known), there)
        if found.verify is not None:
            pod = found.verify.side, found.verify.number
            made.append(pod)
            there.append(ends[pod])
        elif found.status is not None:
            known = found.status
            there = [replace(one, active_label=one not in found.release) for one in there]
        else:
            break
    return made, known


def test_the_pushed_commit_and_its_base_are_verified_before_the_task_ends() -> None:
    first = plan(task(done()))
    assert first.verify is None, "it is recorded first"
    assert first.status is not None
    assert (first.status.phase, first.status.reason) == (Phase.RUNNING, "Verifying")
    assert first.status.verify is not None
    assert first.status.verify.state is EvidenceState.PENDING
    assert stage_of(task(first.status), (), NOW, POLICY) is Stage.ACTIVE, "it keeps its place in the limits"
    made, status = followed(left(GREEN), left(ON_BASE, Side.BASE))
    assert made == [(Side.HEAD, 1), (Side.BASE, 1)]
    assert status.phase is Phase.SUCCEEDED
    assert status.verify is not None
    assert (status.verify.state, status.verify.commit) == (EvidenceState.SUCCESS, HEAD)
    assert status.verify.base is not None
    assert status.verify.base.commit == BASE


@pytest.mark.parametrize(
    ("ends", "state", "pods"),
    [
        pytest.param([left(RED), left(ON_BASE, Side.BASE)], "failure", 2, id="red"),
        pytest.param(
            [broken(), left(GREEN, number=2), left(ON_BASE, Side.BASE)], "success", 3, id="evicted once"
        ),
        pytest.param([broken(number=n) for n in (1, 2, 3)], "error", 3, id="evicted each time"),
        pytest.param([left(None, number=n) for n in (1, 2, 3)], "error", 3, id="unreadable"),
        pytest.param(
            [
                broken(number=n, disruption="", ended="OOMKilled", exit_code=137, verified=GREEN)
                for n in (1, 2, 3)
            ],
            "error",
            3,
            id="killed after it had reported",
        ),
        pytest.param(
            [left(GREEN), *(broken(Side.BASE, n) for n in (1, 2, 3))], "success", 4, id="base not known"
        ),
        pytest.param([left(ON_BASE)], "error", 1, id="another commit was checked out"),
        pytest.param(
            [
                left(RED, pods=(Pod("p", "Succeeded", ago(20), exit_code=0, verified=RED), other))
                for other in (Pod("q", "Failed", ago(9), exit_code=137, verified=GREEN),)
            ]
            + [left(ON_BASE, Side.BASE)],
            "failure",
            2,
            id="only the pod that ended well counts",
        ),
        pytest.param(
            [left(VerifyResult(commit=HEAD, problem="The commit is gone."))],
            "error",
            1,
            id="no use to try again",
        ),
    ],
)
def test_ends_of_pods(ends: list[Job], state: str, pods: int) -> None:
    made, status = followed(*ends)
    assert status.verify is not None
    assert (status.verify.state, len(made)) == (EvidenceState(state), pods)
    assert status.phase is Phase.SUCCEEDED
    assert max(number for _, number in made) <= MAX_TRIES


@pytest.mark.parametrize(
    ("result", "limit"),
    [
        pytest.param(PUSHED.model_copy(update={"verify": None}), LIMIT, id="no commands"),
        pytest.param(
            PUSHED.model_copy(update={"verify": VerifyReport(commands=0)}), LIMIT, id="an empty list"
        ),
        pytest.param(PUSHED.model_copy(update={"commit": None}), LIMIT, id="nothing pushed"),
        pytest.param(PUSHED, None, id="switched off"),
    ],
)
def test_no_evidence_is_asked_for(result: TaskResult, limit: timedelta | None) -> None:
    found = plan(task(done(result=result)), limit=limit)
    assert found.status is not None
    assert (found.status.phase, found.status.verify) == (Phase.SUCCEEDED, None)


def test_a_running_pod_is_waited_for_and_one_that_cannot_start_is_replaced() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    running = evidence_job(ready=1)
    found = plan(task(pending), [running])
    assert (found.verify, found.delete, found.release) == (None, (), ())
    stuck = Pod("p", "Pending", ago(900), waiting="ErrImagePull", waiting_detail="secret.registry: no")
    found = plan(task(pending), [evidence_job(pods=(stuck,))])
    assert [job.name for job in found.delete] == [evidence_job_name(task().name, Side.HEAD, 1)]
    assert found.status is not None
    assert found.status.verify is not None
    assert found.status.verify.head is not None
    assert found.status.verify.head.problem == REASONS[PodReason.ERR_IMAGE_PULL].message
    assert plan(task(found.status), [evidence_job(deleting=True)]).verify is None, "it may still run"
    assert plan(task(found.status), []).verify == (Side.HEAD, 2, HEAD)


def test_a_pod_that_kueue_admits_late_still_has_its_time() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(7 * 3600)))
    queued = evidence_job(queue="team", created=ago(7 * 3600))
    found = plan(task(pending), [replace(queued, suspended=True)])
    assert (found.verify, found.delete) == (None, ())
    found = plan(task(pending), [replace(queued, started=ago(60), ready=1)])
    assert (found.verify, found.delete) == (None, ()), "it waited for Kueue, and now it runs"
    found = plan(task(pending), [left(GREEN, queue="team", started=ago(60))])
    assert found.verify == (Side.BASE, 1, HEAD), "its result counts"


@pytest.mark.parametrize("result", [GREEN, RED])
def test_a_result_that_the_operator_reads_late_counts(result: VerifyResult) -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(7 * 3600)))
    found = plan(task(pending), [left(result)])
    assert found.status is not None
    assert found.status.verify is not None
    state = EvidenceState.SUCCESS if result is GREEN else EvidenceState.FAILURE
    assert (found.verify, found.status.verify.state) == (None, state), "the base is not run any more"


def test_a_job_of_another_owner_with_the_name_is_left_alone_and_the_next_name_is_tried() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    taken = [evidence_job(number=number, owner="uid-0", ready=1) for number in range(1, MAX_TRIES + 1)]
    found = plan(task(pending), taken[:1])
    assert (found.verify, found.delete, found.release) == ((Side.HEAD, 2, HEAD), (), ())
    assert found.requeue_at == NOW
    found = plan(task(pending), [evidence_job(ready=1), taken[1]])
    assert (found.verify, found.delete, found.release) == (None, (), ()), "its own pod runs"
    assert plan(task(pending), [broken(), taken[1]]).verify == (Side.HEAD, 3, HEAD)
    found = plan(task(pending), taken)
    assert (found.verify, found.delete, found.release) == (None, (), ())
    assert found.status is not None
    assert found.status.verify is not None
    assert found.status.verify.state is EvidenceState.ERROR


def test_evidence_that_was_switched_off_says_so() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    found = plan(task(pending), [evidence_job(ready=1)], limit=None)
    assert found.status is not None
    assert found.status.verify is not None
    assert found.status.verify.description == "Could not be checked: The settings no longer ask for evidence."


def test_an_evidence_pod_reserves_no_money() -> None:
    budgets = Budgets(task=Allowance(tokens=1000))
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    assert reserved(task(pending), [evidence_job(ready=1)], budgets) == 0


def test_work_that_failed_after_its_push_is_not_verified() -> None:
    failed = tuple(attempt(number, OutcomeType.FAILED, reason="AgentFailed") for number in (1, 2, 3))
    found = plan(task(Status(attempts=failed, result=PUSHED)))
    assert found.status is not None
    assert (found.status.phase, found.status.verify, found.verify) == (Phase.FAILED, None, None)


def test_a_cancellation_deletes_no_job_of_another_owner() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    jobs = [evidence_job(ready=1), evidence_job(number=2, owner="uid-0", ready=1)]
    found = plan(task(pending, cancel=True), jobs)
    assert [job.owner for job in found.delete] == ["uid-1"]


@pytest.mark.parametrize("cancel", [True, False])
def test_a_cancelled_or_endless_verification_ends_as_error(cancel: bool) -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60 if cancel else 7 * 3600)))
    found = plan(task(pending, cancel=cancel), [evidence_job(ready=1)])
    assert found.status is not None
    assert found.status.verify is not None
    assert found.status.verify.state is EvidenceState.ERROR
    assert found.status.phase is (Phase.CANCELLED if cancel else Phase.SUCCEEDED)
    assert len(found.delete) == 1


TOKEN = {"secret": "github", "key": "token", "file": "github-token", "platform": "github"}
MODEL = {"secret": "model", "key": "api-key", "file": "openai-api-key"}
SIGNING = {"secret": "signing", "key": "key", "file": "commit-signing-key"}
RICH = {
    "config_map": "config",
    "credentials": [TOKEN, MODEL, SIGNING],
    "cache": {"enabled": True},
    "workspace": {"image": "toolchain:1"},
    "pod_template": {
        "spec": {
            "runtimeClassName": "gvisor",
            "volumes": [
                {"name": "certificates", "configMap": {"name": "ca"}},
                {"name": "transcripts", "persistentVolumeClaim": {"claimName": "t"}},
                {"name": "private", "secret": {"secretName": "s"}},
            ],
            "containers": [
                {
                    "name": "agent",
                    "env": [
                        {"name": "SSL_CERT_FILE", "value": "/ca"},
                        {"name": "OPENAI_API_KEY", "value": "sk-1"},
                        {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    ],
                    "envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}],
                    "volumeMounts": [
                        {"name": "certificates", "mountPath": "/ca"},
                        {"name": "transcripts", "mountPath": "/var/lib/t"},
                        {"name": "private", "mountPath": "/private"},
                    ],
                },
                {"name": "workspace", "volumeMounts": [{"name": "transcripts", "mountPath": "/shared"}]},
            ],
        }
    },
}


def built(**more: Any) -> dict[str, Any]:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    return build_evidence_job(
        task(pending, title="$(HOME)"),
        Side.HEAD,
        2,
        JobTemplate.model_validate(RICH | more),
        commit=HEAD,
        timeout_seconds=600,
        token_files={"github-token"},
        environment=Environment(image="registry.example.com/team/tools:1"),
        resources=ServiceResources(),
    )


def test_an_evidence_pod_has_a_network_policy_of_its_own_and_is_watched_like_an_attempt() -> None:
    of_attempt = build_job(task(), 1, JobTemplate.model_validate(RICH))
    manager, components = TASK_PODS.split(",", 1)
    found = set()
    for made in (built(), of_attempt):
        for labels in (made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]):
            assert f"app.kubernetes.io/managed-by={labels['app.kubernetes.io/managed-by']}" == manager
            found.add(labels["app.kubernetes.io/component"])
    assert found == {"attempt", "evidence"}
    assert components == "app.kubernetes.io/component in (attempt,evidence)"


def test_an_evidence_pod_has_no_agent_no_key_and_nothing_of_an_attempt() -> None:
    made = built()
    pod = made["spec"]["template"]["spec"]
    clone, *_, workspace = pod["initContainers"]
    [verify] = pod["containers"]
    assert (clone["name"], workspace["name"], verify["name"]) == ("clone", "workspace", "verify")
    assert (clone["command"][-1], verify["command"][-1]) == ("clone", "verify")
    text = json.dumps(made)
    for absent in (
        "api-key",
        "sk-1",
        "signing",
        "private",
        "transcripts",
        "repository-cache",
        "secretKeyRef",
    ):
        assert absent not in text
    assert "secretRef" not in text
    for plain in (verify, workspace):
        assert "credentials" not in json.dumps(plain), "only the clone has the forge's token"
    assert "restartPolicy" not in clone, "it has ended before any command runs"
    [credentials] = [one for one in pod["volumes"] if one["name"] == "credentials"]
    assert [one["secret"]["name"] for one in credentials["projected"]["sources"]] == ["github"]
    assert pod["runtimeClassName"] == "gvisor"
    assert workspace["image"] == "registry.example.com/team/tools:1"
    assert {"name": "SSL_CERT_FILE", "value": "/ca"} in verify["env"]
    [told] = [entry["value"] for entry in verify["env"] if entry["name"] == VERIFY_VARIABLE]
    given = VerifyInput.model_validate_json(told.replace("$$", "$"))
    assert (given.commit, given.branch, given.side) == (HEAD, "coding-agent/issue-7", Side.HEAD)
    assert not any(entry["name"] == "CODING_AGENT_TASK" for entry in verify["env"])


def test_a_token_that_can_only_read_replaces_the_attempts() -> None:
    made = built(credentials=[TOKEN, TOKEN | {"secret": "read-only", "evidence": True}])
    [volume] = [one for one in made["spec"]["template"]["spec"]["volumes"] if one["name"] == "credentials"]
    assert [one["secret"]["name"] for one in volume["projected"]["sources"]] == ["read-only"]


def test_its_job_and_pod_are_known_again_and_can_report_nothing_else() -> None:
    made = built()
    made["metadata"]["creationTimestamp"] = NOW.isoformat()
    job = read_job(made)
    assert (job.verify, job.number, job.owner) == ((Side.HEAD, 2), None, "uid-1")
    state = {"terminated": {"exitCode": 0, "message": '{"reason": "Completed", "message": "All is well."}'}}
    body = {
        "metadata": {"name": "p", "creationTimestamp": NOW.isoformat(), "labels": {LABEL_VERIFY: "head"}},
        "status": {"containerStatuses": [{"name": "verify", "state": state}]},
    }
    assert (read_pod(body).report, read_pod(body).verified) == (None, None)
    state["terminated"]["message"] = RED.to_termination_message()
    assert read_pod(body).verified == RED
    body["metadata"]["labels"] = {}  # type: ignore[index]
    assert read_pod(body).verified is None


def test_at_the_proxy_the_clone_may_reach_the_forge_and_the_commands_their_packages() -> None:
    made = with_egress(built(), task().spec.item, Egress(), address="10.0.0.1:3128", key="k")
    pod = made["spec"]["template"]["spec"]
    users = {
        container["name"]: [
            entry["value"].split("//")[1].split(":")[0]
            for entry in container["env"]
            if entry["name"] == "HTTPS_PROXY"
        ]
        for container in [*pod["initContainers"], *pod["containers"]]
        if "env" in container
    }
    assert users["clone"][0].endswith("-verify-head-2.agent")
    assert users["workspace"][0].endswith("-verify-head-2.workspace")
    assert users["verify"] == []
    [removed] = [one["value"] for one in pod["containers"][0]["env"] if one["name"] == WORKSPACE_PROXY]
    assert f"{users['workspace'][0]}:" in removed, "to remove it from the output that it reports"


def test_no_evidence_pod_starts_while_the_task_is_suspended() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(7 * 3600)))
    for there in ([], [broken()]):
        found = plan(task(pending, suspend=True), there)
        assert found.verify is None
        assert found.stage is Stage.SUSPENDED
        assert found.requeue_at is None, "only an event changes this"
        assert found.status is not None
        assert (found.status.phase, found.status.reason) == (Phase.SUSPENDED, "Suspended")
        assert found.status.verify is not None
        assert found.status.verify.state is EvidenceState.PENDING, "its time does not run out"
        assert stage_of(task(pending, suspend=True), (), NOW, POLICY) is Stage.SUSPENDED
        resumed = plan(task(found.status), there)
        assert resumed.verify == (Side.HEAD, len(there) + 1, HEAD), "it has its time again"


def test_an_evidence_pod_that_runs_may_end_while_the_task_is_suspended() -> None:
    pending = done(verify=Evidence(commit=HEAD, started=ago(60)))
    found = plan(task(pending, suspend=True), [evidence_job(ready=1)])
    assert (found.stage, found.verify, found.delete) == (Stage.ACTIVE, None, ())
    found = plan(task(pending, suspend=True), [left(GREEN)])
    assert (found.stage, found.verify) == (Stage.SUSPENDED, None)
    assert found.status is not None
    assert found.status.verify is not None
    assert found.status.verify.head is not None
    assert found.status.verify.head.settled, "its result counts"
