"""The Job of an attempt as Kubernetes gets it."""

import pytest
from coding_agent_core.agenttask import OutcomeType, TaskResult
from coding_agent_core.attempts import AttemptInput
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_operator.job import build_job
from coding_agent_operator.observed import attempt_number, job_name

from tests.unit.operator.making import NOW, attempt, status, task


def test_one_job_is_one_attempt() -> None:
    spec = build_job(task(), 2, JobTemplate())["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    ignored, permanent = spec["podFailurePolicy"]["rules"]
    assert (ignored["action"], ignored["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (permanent["action"], permanent["onExitCodes"]["values"]) == ("FailJob", [65, 77, 78])


def test_the_pods_deadline_leaves_the_agent_its_time_and_the_jobs_leaves_other_pods_theirs() -> None:
    template = JobTemplate(grace_seconds=45, start_seconds=300)
    job = build_job(task(), 1, template)["spec"]
    pod = job["template"]["spec"]
    assert pod["activeDeadlineSeconds"] == 600 + 45 + 300
    assert job["activeDeadlineSeconds"] == 3 * pod["activeDeadlineSeconds"]
    assert pod["terminationGracePeriodSeconds"] == 45
    assert given(build_job(task(), 1, template)).timeout_seconds == 600


def test_the_task_owns_its_job_and_is_told_to_the_agent() -> None:
    made = build_job(task(), 2, JobTemplate())
    owner = made["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"]) == ("uid-1", True)
    told = given(made)
    assert (told.task.attempt, told.task.name, told.max_attempts) == (2, task().name, 3)
    assert (told.earlier.branch, told.earlier.recap) == (None, "")
    assert given(build_job(task(runner="codex"), 1, JobTemplate())).task.request.runner == "codex"


def test_a_further_attempt_is_told_what_the_earlier_ones_left() -> None:
    result = TaskResult(branch="coding-agent/issue-7", change_url="https://github.com/octo/demo/pull/8")
    first = attempt(
        1, OutcomeType.FAILED, message="No memory.", tail="- called run_command", transcript="a.jsonl"
    )
    told = given(build_job(task(status(first, result=result)), 2, JobTemplate()))
    assert told.earlier.branch == "coding-agent/issue-7"
    assert told.earlier.change_url == "https://github.com/octo/demo/pull/8"
    assert told.earlier.recap == "Attempt 1 ended: No memory.\n- called run_command"
    assert told.earlier.ended == "Attempt 1 ended: No memory."
    assert told.earlier.transcripts == ("a.jsonl",)


def test_of_a_long_story_the_newest_part_is_told() -> None:
    attempts = [attempt(n, OutcomeType.FAILED, tail=str(n % 10) * 2000) for n in range(1, 20)]
    recap = given(build_job(task(status(*attempts)), 20, JobTemplate())).earlier.recap
    assert len(recap) == 12_000
    assert recap.endswith("9999")


@pytest.mark.parametrize("title", ["$(HOME) is $$HOME", "umlauts: äöü", 'quotes " and \\n', "$"])
def test_a_title_reaches_the_agent_whatever_is_in_it(title: str) -> None:
    assert given(build_job(task(title=title), 1, JobTemplate())).task.request.title == title


def test_further_labels_and_annotations_do_not_hide_ours() -> None:
    given = {
        "labels": {"team": "a", "coding-agent.dev/attempt": "9"},
        "annotations": {"sidecar.istio.io/inject": "false"},
    }
    template = JobTemplate(pod_template={"metadata": given})
    metadata = build_job(task(), 2, template)["spec"]["template"]["metadata"]
    assert (metadata["labels"]["team"], metadata["labels"]["coding-agent.dev/attempt"]) == ("a", "2")
    assert metadata["annotations"] == {"sidecar.istio.io/inject": "false"}


def test_names_fit_and_are_read_back() -> None:
    for name in ("demo-issue-7-abcdef0123456789", "x" * 63, "y" * 200, "z." * 60 + "z"):
        for number in (1, 23, 456):
            job = job_name(name, number)
            assert len(job) <= 63
            assert attempt_number(name, job) == number
            assert attempt_number(name, job + "1") != number
    assert job_name("x" * 100 + "a", 1) != job_name("x" * 100 + "b", 1)
    assert attempt_number("demo", "other-1") is None
    assert attempt_number("demo", "demo-01") is None


def given(job: dict) -> AttemptInput:  # type: ignore[type-arg]
    """What the agent reads, with the environment expanded as the kubelet does it."""
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    value = next(entry["value"] for entry in environment if entry["name"] == "CODING_AGENT_TASK")
    return AttemptInput.from_json(expanded(value), now=NOW)


def expanded(value: str) -> str:
    """`$$` is a dollar sign; a lone one before a bracket would be a reference (the API's documentation)."""
    assert "$(" not in value.replace("$$", "")
    return value.replace("$$", "$")
