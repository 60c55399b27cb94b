"""The Job of an attempt as Kubernetes gets it."""

from __future__ import annotations

import json

from coding_agent_core.queued_task import QueuedTask
from coding_agent_operator.job import build_job
from coding_agent_operator.names import attempt_number, job_name
from coding_agent_operator.settings import JobTemplate

from tests.unit.operator.making import NOW, task


def test_one_job_is_one_attempt() -> None:
    spec = build_job(task(), 2, JobTemplate())["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 600
    ignored, permanent = spec["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (permanent["action"], permanent["onExitCodes"]["values"]) == ("FailJob", [65, 77, 78])


def test_the_pod_has_no_rights() -> None:
    pod = build_job(task(), 1, JobTemplate())["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    container = pod["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_task_owns_its_job_and_is_told_to_the_agent() -> None:
    made = build_job(task(), 2, JobTemplate())
    owner = made["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"]) == ("uid-1", True)
    data = json.loads(made["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])
    queued = QueuedTask.from_message(data, now=NOW)
    assert (queued.attempt, queued.name) == (2, task().name)


def test_names_fit_and_are_read_back() -> None:
    for name in ("demo-issue-7-abcdef01", "x" * 63, "y" * 200, "z." * 60 + "z"):
        for number in (1, 23, 456):
            job = job_name(name, number)
            assert len(job) <= 63
            assert attempt_number(name, job) == number
            assert attempt_number(name, job + "1") != number
    assert job_name("x" * 100 + "a", 1) != job_name("x" * 100 + "b", 1)
    assert attempt_number("demo", "other-1") is None
    assert attempt_number("demo", "demo-01") is None
