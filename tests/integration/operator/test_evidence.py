"""Evidence pods on a real API server: the Jobs are accepted, and their results end the task."""

from collections.abc import Callable

from coding_agent_core.task.agenttask import LABEL_VERIFY
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.verification import VerifyReport, VerifyResult, verified

from tests.integration.operator.pod_driver import Ends, PodDriver, reported
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]
HEAD, BASE = "a" * 40, "b" * 40


def left(commit: str, code: int) -> Ends:
    result = VerifyResult(commit=commit, commands=(verified("make test", code, 1, "1 failed"),))
    return Ends(0, result.to_termination_message())


def test_the_task_ends_with_what_its_evidence_pods_left(
    world: World, pods: PodDriver, operator: Start
) -> None:
    work = reported(
        Reason.COMPLETED,
        "Opened a pull request.",
        branch="coding-agent/7",
        change_url="https://github.com/octo/demo/pull/8",
        commit=HEAD,
        verify=VerifyReport(commands=1),
    )
    ends = {
        "-verify-head-1": Ends(137, "Killed"),
        "-verify-head-2": left(HEAD, 1),
        "-verify-base-1": left(BASE, 0),
    }
    pods.script = lambda job: next((end for tail, end in ends.items() if job.endswith(tail)), work)
    operator()
    name = world.create(7)
    status = world.until_phase(name, "Succeeded")
    assert status["verify"]["state"] == "failure"
    assert status["verify"]["commit"] == HEAD
    assert status["verify"]["description"] == "The command fails: make test (exit code 1): 1 failed"
    assert (status["verify"]["head"]["tries"], status["verify"]["base"]["commit"]) == (2, BASE)
    jobs = {job.metadata.name: job for job in world.jobs().values()}
    sides = {found: job.metadata.labels.get(LABEL_VERIFY) for found, job in jobs.items()}
    assert sides == {
        f"{name}-1": None,
        f"{name}-verify-head-1": "head",
        f"{name}-verify-head-2": "head",
        f"{name}-verify-base-1": "base",
    }
    for found, job in jobs.items():
        if sides[found]:
            assert [one.name for one in job.spec.template.spec.containers] == ["verify"]
