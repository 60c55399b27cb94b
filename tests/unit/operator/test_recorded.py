"""What a status keeps of attempts: every cost, the newest steps, the places of transcripts; all bounded."""

import pytest
from coding_agent_core.task.agenttask import AttemptStatus, OutcomeType
from coding_agent_core.task.attempts import MAX_TAIL
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Usage
from coding_agent_operator.cluster.observed import Job, read_job
from coding_agent_operator.tasks.metrics import count_change
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task
from coding_agent_operator.tasks.state import KEPT_TAILS, bounded, task_state
from prometheus_client import REGISTRY

from tests.unit.operator.making import NOW, POLICY, attempt, failed, job, pod, said, status, task

PLACE, URL = "s3://bucket/transcripts/x/attempt-1.jsonl", "https://logs.example/x"


def usage() -> Usage:
    return Usage(requests=2, input_tokens=100, output_tokens=10)


def test_looking_twice_adds_nothing() -> None:
    jobs = [failed(**said(Reason.MODEL_UNAVAILABLE, usage=usage()))]
    once = plan_task(task(), jobs, SchedulingDecision(), NOW, POLICY)
    assert once.status is not None
    again = plan_task(task(once.status), jobs, SchedulingDecision(), NOW, POLICY)
    assert again.status is None, "nothing has changed"


def test_what_the_agent_says_of_its_transcript_is_recorded() -> None:
    jobs = [failed(**said(Reason.TOOL_FAILING, transcript=PLACE, transcript_url=URL, tail="- called x"))]
    [kept] = task_state(task(), jobs, NOW, POLICY).attempts
    assert (kept.transcript, kept.transcript_url, kept.tail) == (PLACE, URL, "- called x")


def running(**fields: object) -> Job:
    body = {
        "metadata": {
            "name": job().name,
            "uid": "job-1",
            "resourceVersion": "9",
            "creationTimestamp": NOW.isoformat(),
            "annotations": {"coding-agent.dev/transcript": PLACE, "coding-agent.dev/transcript-url": URL},
            "ownerReferences": [
                {"kind": "AgentTask", "name": task().name, "uid": "uid-1", "controller": True}
            ],
        }
    }
    return Job(**{**vars(read_job(body)), "pods": (), **fields})


def test_the_place_is_known_while_the_agent_runs_and_when_it_was_killed() -> None:
    [live] = task_state(task(), [running()], NOW, POLICY).attempts
    assert (live.transcript, live.transcript_url, live.outcome) == (PLACE, URL, None)
    log = "12:00:01 INFO step 3: run_command: make\n\x1b[31mKilled\x1b[0m"
    killed = running(
        failure="BackoffLimitExceeded", pods=(pod(exit_code=137, ended="OOMKilled", message=log),)
    )
    [ended] = task_state(task(status(live)), [killed], NOW, POLICY).attempts
    assert (ended.transcript, ended.reason) == (PLACE, "OOMKilled")
    assert ended.tail == "12:00:01 INFO step 3: run_command: make\n[31mKilled[0m"


def test_an_agent_whose_store_was_down_takes_the_promise_back() -> None:
    ended = running(failure="BackoffLimitExceeded", pods=(pod(**said(Reason.TOOL_FAILING)),))
    [kept] = task_state(task(), [ended], NOW, POLICY).attempts
    assert (kept.transcript, kept.transcript_url) == (None, None)


UNBELIEVED = [
    '{"version": 2, "reason": "Completed", "message": "trust me", "branch": "evil"}',
    '{"version": 1, "reason": "Completed", "message": "cut off by the',
    "Traceback (most recent call last):\n  KeyError",
    "\x00\x1b]0;title\x07" * 500,
]


@pytest.mark.parametrize("message", UNBELIEVED)
@pytest.mark.parametrize("code", [0, 1, 65, 75, 137, 143])
def test_a_message_of_no_known_form_is_shown_but_never_believed(message: str, code: int) -> None:
    ended = failed(exit_code=code, message=message)
    state = task_state(task(), [ended], NOW, POLICY)
    [kept] = state.attempts
    assert kept.outcome is not OutcomeType.SUCCEEDED
    assert state.result is None, "no branch, no usage of it"
    assert (kept.tail or "").isprintable() or "\n" in (kept.tail or "")
    assert len(kept.tail or "") <= MAX_TAIL
    AttemptStatus.model_validate(kept.to_wire())


def test_a_deadline_does_not_hide_what_the_agent_left() -> None:
    stopped = {**said(Reason.CANCELLED, usage=usage(), branch="b"), "reason": "DeadlineExceeded"}
    jobs = [failed(**stopped)]
    state = task_state(task(), jobs, NOW, POLICY)
    assert state.attempts[0].reason == "DeadlineExceeded"
    assert state.result is not None
    assert state.result.branch == "b"
    assert state.attempts[0].usage is not None


def test_only_the_newest_attempts_keep_their_steps() -> None:
    many = [attempt(n, OutcomeType.FAILED, tail="x" * MAX_TAIL) for n in range(1, 61)]
    kept = bounded(many)
    assert [entry.number for entry in kept if entry.tail] == list(range(61 - KEPT_TAILS, 61))
    assert bounded(kept) == kept
    whole = status(*kept).model_dump_json(by_alias=True)
    assert len(whole) < 64_000, "60 attempts stay far below what etcd takes"


def test_what_is_alerted_on_is_there_before_it_happens() -> None:
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    origins = {
        entry.labels["origin"] for entry in samples if entry.name == "coding_agent_tasks_accepted_total"
    }
    assert origins == {"webhook", "poll", "redelivery", "labels", "manual"}
    ends = {
        (found.labels["phase"], found.labels["reason"])
        for found in samples
        if found.name == "coding_agent_tasks_ended_total"
    }
    good = {"Completed", "NothingToChange", "Superseded"}
    assert {reason for phase, reason in ends if phase == "Succeeded"} == good
    assert ("Cancelled", "Cancelled") in ends
    failed = {reason for phase, reason in ends if phase == "Failed"}
    assert failed >= {*Reason} - good - {Reason.CANCELLED, Reason.WITHDRAWN}
    assert failed >= {"OOMKilled", "PodLost", "TooManyAttempts", "Unschedulable", "ErrImagePull"}


def test_what_an_attempt_used_is_counted_once_when_its_end_is_recorded() -> None:
    def tokens() -> float:
        labels = {"repository": "octo/demo", "model": "counted-once", "direction": "output"}
        return REGISTRY.get_sample_value("coding_agent_model_tokens_total", labels) or 0.0

    usage = Usage(requests=2, input_tokens=10, output_tokens=7, model="counted-once")
    end = status(attempt(outcome=OutcomeType.SUCCEEDED, usage=usage))
    running = task(status(attempt()))
    before = tokens()
    count_change(running, end)
    count_change(task(end), end)
    assert tokens() - before == 7
