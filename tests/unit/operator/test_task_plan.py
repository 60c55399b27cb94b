"""What is next for a task: one row, one situation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.task.agenttask import AgentTask, Condition, Event, OutcomeType, Status
from coding_agent_core.task.model import CommandName, Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.runs import answered_by
from coding_agent_core.task.usage import Usage
from coding_agent_operator.cluster.observed import Job
from coding_agent_operator.tasks.outcome_of import delay_after
from coding_agent_operator.tasks.plan import (
    DELETING_REQUEUE_S,
    OPERATOR_DEFECT,
    Plan,
    SchedulingDecision,
    plan_task,
    status_with_defect,
)
from coding_agent_operator.tasks.state import MAX_WAITS, Stage, stage_of

from tests.unit.operator.making import (
    NOW,
    POLICY,
    ago,
    attempt,
    changed,
    commanded,
    complete,
    ended,
    failed,
    job,
    pod,
    said,
    status,
    task,
)

GO, WAIT = SchedulingDecision(start=True), SchedulingDecision(position=3)
FAILED, DISRUPTED, RESTARTED = OutcomeType.FAILED, OutcomeType.DISRUPTED, OutcomeType.RESTARTED
LONG_AGO: dict[str, Any] = {"completion_time": ago(1e6)}


def pending(**fields: Any) -> Job:
    return job(pods=(pod(phase="Pending", **fields),))


RUNNING = Status(
    attempts=(attempt(),),
    conditions=(
        Condition(type="Running", status="True", reason="AgentStarted", last_transition_time=ago(20)),
    ),
)

NEXT: list[tuple[str, AgentTask, list[Job], SchedulingDecision, Phase | int]] = [
    ("new, not its turn", task(), [], WAIT, Phase.QUEUED),
    ("new, its turn", task(), [], GO, 1),
    ("cancelled before it started", task(cancel=True), [], GO, Phase.CANCELLED),
    ("suspended before it started", task(suspend=True), [], GO, Phase.SUSPENDED),
    ("its Job exists", task(status(attempt())), [job()], WAIT, Phase.STARTING),
    ("its Job exists, not recorded", task(), [job()], GO, Phase.STARTING),
    ("its pod waits", task(status(attempt())), [pending()], WAIT, Phase.STARTING),
    ("its agent runs", task(status(attempt())), [job(ready=1)], WAIT, Phase.RUNNING),
    ("its agent runs, by its pod", task(), [pending(started=True)], WAIT, Phase.RUNNING),
    ("its agent has run, and its workspace starts again", task(RUNNING), [job()], WAIT, Phase.RUNNING),
    ("its pod is being deleted", task(RUNNING), [pending(gone_by=NOW)], WAIT, Phase.RUNNING),
    ("its pod was replaced, and the new one waits", task(RUNNING), [pending()], WAIT, Phase.STARTING),
    ("its pod was replaced, and there is no new one", task(RUNNING), [job(pods=())], WAIT, Phase.STARTING),
    ("an earlier attempt has run", task(RUNNING), [job(2)], WAIT, Phase.STARTING),
    ("its Job succeeded", task(status(attempt())), [complete()], GO, Phase.SUCCEEDED),
    ("its Job succeeded, not recorded", task(), [complete()], GO, Phase.SUCCEEDED),
    ("its Job failed for now", task(status(attempt())), [failed(exit_code=75)], GO, Phase.BACKOFF),
    ("its Job failed for good", task(status(attempt())), [failed(exit_code=65)], GO, Phase.FAILED),
    ("failed, the wait is over", task(status(attempt(outcome=FAILED, **LONG_AGO))), [], GO, 2),
    (
        "failed at the maximum",
        task(status(attempt()), maxAttempts=1),
        [failed(exit_code=75)],
        GO,
        Phase.FAILED,
    ),
    (
        "disrupted at the maximum: not counted",
        task(status(attempt()), maxAttempts=1),
        [failed(exit_code=143)],
        GO,
        Phase.BACKOFF,
    ),
    ("its Job was deleted", task(status(attempt())), [], GO, Phase.BACKOFF),
    ("cancel while it runs", task(status(attempt()), cancel=True), [job(ready=1)], GO, Phase.RUNNING),
    ("cancel, the Job is gone", task(status(attempt()), cancel=True), [], GO, Phase.CANCELLED),
    ("cancel, its Job succeeded", task(status(attempt()), cancel=True), [complete()], GO, Phase.CANCELLED),
    ("cancel in backoff", task(status(attempt(outcome=FAILED)), cancel=True), [], GO, Phase.CANCELLED),
    ("suspend while it runs", task(status(attempt()), suspend=True), [job(ready=1)], GO, Phase.RUNNING),
    (
        "suspend, the Job is gone",
        task(status(attempt(reason="Suspended")), suspend=True),
        [],
        GO,
        Phase.SUSPENDED,
    ),
    ("resumed", task(status(attempt(outcome=DISRUPTED, reason="Suspended", counted=False))), [], GO, 2),
    (
        "succeeded while it was suspended",
        task(status(attempt(reason="Suspended"))),
        [complete()],
        GO,
        Phase.SUCCEEDED,
    ),
    ("a /cancel waits", commanded(ago(5)), [], GO, Phase.QUEUED),
    (
        "a /cancel waits while it runs",
        commanded(ago(5), status(attempt())),
        [job(ready=1)],
        GO,
        Phase.RUNNING,
    ),
    ("nobody has checked the /cancel for long", commanded(ago(601)), [], GO, 1),
    # Whoever stores a command chooses its time. A later one would hold the task longer, or has no sum.
    ("a /cancel from the future", commanded(ago(-601)), [], GO, 1),
    ("a /cancel at the end of time", commanded(datetime.max.replace(tzinfo=UTC)), [], GO, 1),
    ("a /retry waits", commanded(ago(5), name=CommandName.RETRY), [], GO, 1),
    ("a foreign Job has its name", task(), [job(owner="somebody")], GO, 2),
    ("succeeded before, cancel comes late", task(ended("True"), cancel=True), [], GO, Phase.SUCCEEDED),
    ("cancelled before", task(ended("False", "Cancelled"), cancel=True), [], GO, Phase.CANCELLED),
    ("failed before", task(ended("False", "Crashed")), [], GO, Phase.FAILED),
]


@pytest.mark.parametrize(
    ("task", "jobs", "decision", "expected"), [row[1:] for row in NEXT], ids=[row[0] for row in NEXT]
)
def test_what_is_next(
    task: AgentTask, jobs: list[Job], decision: SchedulingDecision, expected: Phase | int
) -> None:
    plan = plan_task(task, jobs, decision, NOW, POLICY)
    if isinstance(expected, int) and not isinstance(expected, Phase):
        assert plan.create == expected
        assert plan.status is None, "create comes before record"
    else:
        assert plan.create is None
        assert shown(task, plan).phase is expected
    again = plan_task(task, jobs, decision, NOW, POLICY)
    assert again == plan, "nothing is remembered"


def shown(task: AgentTask, plan: Plan) -> Status:
    return plan.status or task.status


@pytest.mark.parametrize(
    ("task_", "jobs", "decision"), [row[1:4] for row in NEXT], ids=[row[0] for row in NEXT]
)
def test_a_written_status_is_not_written_again(
    task_: AgentTask, jobs: list[Job], decision: SchedulingDecision
) -> None:
    waiting = SchedulingDecision(position=decision.position)
    plan = plan_task(task_, jobs, waiting, NOW, POLICY)
    spec = {
        "maxAttempts": task_.spec.max_attempts,
        "cancel": task_.spec.cancel,
        "suspend": task_.spec.suspend,
    }
    commands = task_.metadata.annotations
    written = changed(task(shown(task_, plan), **spec), annotations=commands)
    later = plan_task(written, jobs, waiting, NOW + timedelta(milliseconds=1), POLICY)
    assert later.status is None


def test_a_job_is_deleted_only_after_the_reason_is_written_and_in_the_foreground() -> None:
    running = task(status(attempt()), cancel=True)
    plan = plan_task(running, [job()], WAIT, NOW, POLICY)
    assert plan.status is not None
    assert plan.status.attempts[0].reason == "Cancelled"
    assert plan.status.attempts[0].outcome is None, "it has not ended yet"
    assert [entry.name for entry in plan.delete] == [job().name]
    ending = plan_task(task(plan.status, cancel=True), [job(deleting=True)], WAIT, NOW, POLICY)
    assert ending.delete == ()
    assert ending.stage is not Stage.ENDED, "the item is not free before its pods are gone"
    assert ending.requeue_at == NOW + timedelta(seconds=DELETING_REQUEUE_S)


def test_a_stuck_pod_costs_its_attempt_only_once_it_is_gone() -> None:
    waiting = pod(
        phase="Pending", created=ago(1e4), waiting="CreateContainerConfigError", waiting_detail="no Secret"
    )
    plan = plan_task(task(status(attempt())), [job(created=ago(1e4), pods=(waiting,))], WAIT, NOW, POLICY)
    assert plan.delete
    assert plan.status is not None
    gone = plan_task(task(plan.status), [], WAIT, NOW, POLICY)
    assert gone.status is not None
    assert gone.status.phase is Phase.FAILED
    assert gone.status.reason == "CreateContainerConfigError"
    assert "no Secret" in gone.status.conditions[0].message


def test_a_reason_to_stop_that_has_passed_is_taken_back() -> None:
    plan = plan_task(task(status(attempt(reason="Suspended", message="m"))), [job()], WAIT, NOW, POLICY)
    assert plan.delete == ()
    assert plan.status is not None
    assert plan.status.attempts[0].reason is None


TROUBLES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "the image",
        {"waiting": "ErrImagePull", "waiting_detail": 'failed to pull "x:1": not found'},
        "ErrImagePull",
        "Attempt 1 has not started yet. The agent's image could not be pulled. failed to pull "
        '"x:1": not found. If this lasts for 300 s, the attempt fails.',
    ),
    (
        "no node",
        {"unschedulable": True, "waiting_detail": "0/1 nodes are available: 1 Insufficient memory."},
        "Unschedulable",
        "Attempt 1 has not started yet. No node in the cluster could run the attempt. 0/1 nodes are "
        "available: 1 Insufficient memory. If this lasts for 900 s, another attempt starts.",
    ),
    (
        "a Secret",
        {"waiting": "CreateContainerConfigError", "waiting_detail": 'secret "token" not found'},
        "CreateContainerConfigError",
        "Attempt 1 has not started yet. A Secret or ConfigMap that the agent needs is missing. secret "
        '"token" not found. If this lasts for 120 s, the attempt fails.',
    ),
]


@pytest.mark.parametrize(
    ("pod_", "reason", "message"), [row[1:] for row in TROUBLES], ids=[row[0] for row in TROUBLES]
)
def test_a_pod_that_cannot_begin_is_told_while_it_lasts(
    pod_: dict[str, Any], reason: str, message: str
) -> None:
    begun = task(status(attempt()))
    stays = job(pods=(pod(phase="Pending", **pod_),))
    plan = plan_task(begun, [stays], WAIT, NOW, POLICY)
    told = plan.status
    assert told is not None
    assert Event("Warning", reason, message) in plan.events, "nobody waits for the end of the attempt to know"
    assert told.phase is Phase.STARTING, "its place is taken"
    assert told.reason == reason
    assert [condition.message for condition in told.conditions[:2]] == [
        message,
        "The attempt's Job exists; its agent has not started.",
    ]
    # A pull that fails says `ErrImagePull` and `ImagePullBackOff` in turn: not worth a write each.
    other = "ImagePullBackOff" if reason == "ErrImagePull" else pod_.get("waiting", "")
    turns = job(pods=(pod(phase="Pending", **pod_ | {"waiting": other, "waiting_detail": "otherwise"}),))
    again = plan_task(task(told), [turns], WAIT, NOW, POLICY)
    assert (again.status, again.events) == (None, ())
    well = plan_task(task(told), [job(ready=1)], WAIT, NOW, POLICY).status
    assert well is not None
    assert well.reason == "Running"


@pytest.mark.parametrize(
    ("free", "name"),
    [
        (0, "Attempt 1"),
        (1, "Attempt 2 (1 earlier one does not count)"),
        (12, "Attempt 13 (12 earlier ones do not count)"),
    ],
)
def test_the_message_explains_a_number_above_the_limit_of_attempts(free: int, name: str) -> None:
    evicted = [attempt(number, FAILED, counted=False) for number in range(1, free + 1)]
    plan = plan_task(task(status(*evicted, attempt(free + 1))), [job(free + 1, ready=1)], WAIT, NOW, POLICY)
    assert plan.status is not None
    assert plan.status.conditions[0].message == f"{name} is running."


def test_another_limit_is_told_with_the_next_position_and_needs_no_write_of_its_own() -> None:
    def waits(position: int, limit: str, known: Status | None = None) -> Status | None:
        decision = SchedulingDecision(position=position, limit=limit)
        return plan_task(task(known), [], decision, NOW, POLICY).status

    first = waits(3, "at most 5 tasks run at a time")
    assert first is not None
    assert first.conditions[0].message == "The task waits for its turn: at most 5 tasks run at a time."
    assert waits(3, "at most 2 tasks run at a time in acme/web", first) is None
    moved = waits(2, "at most 2 tasks run at a time in acme/web", first)
    assert moved is not None
    assert "acme/web" in moved.conditions[0].message


@pytest.mark.parametrize("known", [True, False])
def test_a_defect_replaces_reason_and_message_until_the_next_plan(known: bool) -> None:
    before = plan_task(task(), [job(ready=1)], WAIT, NOW, POLICY).status if known else None
    defective = status_with_defect(task(before), KeyError("secret"), NOW)
    assert (defective.phase, defective.reason) == (Phase.RUNNING if known else None, OPERATOR_DEFECT)
    shown = defective.condition("Succeeded")
    assert shown is not None
    assert (shown.status, shown.reason) == ("Unknown", OPERATOR_DEFECT)
    assert "A defect in the operator (KeyError) stops its work on this task" in shown.message
    assert "secret" not in shown.message
    assert status_with_defect(task(defective), KeyError("other"), NOW) == defective, "it is written once"
    after = plan_task(task(defective), [job(ready=1)], WAIT, NOW, POLICY)
    assert after.status is not None
    assert (after.status.phase, after.status.reason) == (Phase.RUNNING, "Running")
    assert after.status.conditions == (before or after.status).conditions


def test_a_job_that_is_refused_is_told_until_it_is_taken() -> None:
    why = "the Kubernetes API server answers 403: exceeded quota: none"
    told = plan_task(task(), [], SchedulingDecision(refused=why), NOW, POLICY).status
    assert told is not None
    assert (told.phase, told.reason) == (Phase.QUEUED, "Refused")
    assert (
        told.conditions[0].message
        == f"The attempt's Job cannot be created; the operator keeps trying: {why}."
    )
    assert plan_task(task(told), [], SchedulingDecision(refused=why), NOW, POLICY).status is None
    assert plan_task(task(told), [], GO, NOW, POLICY).create == 1


def test_disruptions_have_an_end() -> None:
    policy = replace(POLICY, max_disruptions=2)
    lost = [attempt(n, DISRUPTED, counted=False, reason="NodeLost", **LONG_AGO) for n in (1, 2)]
    assert plan_task(task(status(*lost)), [], GO, NOW, policy).create == 3
    plan = plan_task(task(status(*lost, attempt(3))), [], GO, NOW, policy)
    assert plan.status is not None
    assert plan.status.phase is Phase.FAILED


def test_attempts_that_a_forge_kept_from_beginning_are_no_disruptions() -> None:
    policy = replace(POLICY, max_disruptions=2)
    known = [attempt(n, RESTARTED, counted=False, reason="ForgeDown", **LONG_AGO) for n in range(1, 20)]
    assert plan_task(task(status(*known)), [], GO, NOW, policy).create == 20
    [*before, last] = known
    ended = job(19, failure="BackoffLimitExceeded", pods=(pod(**said(Reason.FORGE_DOWN)),))
    plan = plan_task(task(status(*before, attempt(19))), [ended], GO, NOW, policy)
    assert plan.create is None, "the next attempt waits, and tasks of other forges have the place"
    assert plan.status is not None
    assert (plan.status.phase, plan.status.attempts[-1].outcome) == (Phase.BACKOFF, last.outcome)


def test_what_ended_is_released() -> None:
    done = complete()
    foreign = job(3, owner="x", complete=True)
    plan = plan_task(task(status(attempt())), [done, foreign], WAIT, NOW, POLICY)
    assert plan.release == (done,)
    retried = plan_task(task(status(attempt())), [failed(exit_code=75)], WAIT, NOW, POLICY)
    assert retried.release


def test_usage_adds_up_and_the_newest_result_counts() -> None:
    first = failed(**said(Reason.MODEL_UNAVAILABLE, branch="b", usage=Usage(requests=2, input_tokens=10)))
    plan = plan_task(task(status(attempt())), [first], WAIT, NOW, POLICY)
    assert plan.status is not None
    second = job(
        2, complete=True, pods=(pod(**said(Reason.COMPLETED, change_url="u", usage=Usage(requests=1))),)
    )
    end = plan_task(task(plan.status), [first, second], WAIT, NOW, POLICY).status
    assert end is not None
    assert end.result is not None
    assert end.result.branch == "b"
    assert end.result.change_url == "u"
    assert end.result.usage is not None
    assert end.result.usage.requests == 3


@pytest.mark.parametrize("reason", [Reason.MODEL_UNAVAILABLE, Reason.FORGE_UNAVAILABLE, Reason.FORGE_DOWN])
@pytest.mark.parametrize(
    ("asked", "kept"), [(500, 500), (900, 900), (3600, 3600), (86_400, 86_400), (1e9, 86_400)]
)
def test_the_wait_that_a_model_or_a_forge_asks_for_is_kept_in_full_and_costs_no_attempt(
    reason: Reason, asked: float, kept: float
) -> None:
    patient = failed(**said(reason, retry_after=asked))
    plan = plan_task(task(status(attempt()), max_attempts=1), [patient], WAIT, NOW, POLICY)
    assert plan.requeue_at is not None
    # Not all tasks return to it at once.
    assert timedelta(seconds=kept) < plan.requeue_at - ago(1) <= timedelta(seconds=kept * 1.1)
    assert plan.status is not None
    assert (plan.status.phase, plan.status.attempts[-1].counted) == (Phase.BACKOFF, False)
    written = task(plan.status, max_attempts=1)
    assert plan_task(written, [], GO, NOW + timedelta(seconds=kept - 10), POLICY).create is None
    assert plan_task(written, [], GO, NOW + timedelta(seconds=kept * 1.1), POLICY).create == 2


def test_a_service_that_asks_for_a_wait_each_time_ends_the_task() -> None:
    def after(waits: int) -> Phase | None:
        waited = [attempt(n, FAILED, counted=False, **LONG_AGO) for n in range(1, waits)]
        ended = job(
            waits,
            failure="BackoffLimitExceeded",
            pods=(pod(**said(Reason.MODEL_UNAVAILABLE, retry_after=9.0)),),
        )
        plan = plan_task(task(status(*waited, attempt(waits))), [ended], WAIT, NOW, POLICY)
        return plan.status.phase if plan.status is not None else None

    assert (after(MAX_WAITS), after(MAX_WAITS + 1)) == (Phase.BACKOFF, Phase.FAILED)


@pytest.mark.parametrize(
    ("ahead", "due"),
    [(600, False), (3600, True), (86_400, True)],
)
def test_after_the_clock_was_set_back_an_own_delay_is_not_longer_than_it_can_be(
    ahead: float, due: bool
) -> None:
    end = NOW + timedelta(seconds=ahead)
    ended = attempt(outcome=FAILED, completion_time=end)
    waits = task(status(ended, next_attempt_time=end + timedelta(seconds=20)))
    assert (plan_task(waits, [], GO, NOW, POLICY).create == 2) is due


def test_a_next_time_edited_by_hand_is_not_believed() -> None:
    far = task(status(attempt(outcome=FAILED, **LONG_AGO), next_attempt_time=NOW + timedelta(days=900)))
    assert plan_task(far, [], GO, NOW, POLICY).create == 2


def test_the_delay_is_exponential_jittered_capped_and_repeatable() -> None:
    def spread(count: int) -> list[float]:
        tries = [attempt(n, FAILED) for n in range(1, count + 1)]
        return [delay_after(f"uid-{n}", tries, POLICY) for n in range(400)]

    for count, bound in ((1, 30), (2, 60), (3, 120), (9, 900), (40, 900)):
        delays = spread(count)
        assert max(delays) <= bound
        assert max(delays) > 0.9 * bound
        assert bound / 2 <= min(delays) < 0.55 * bound
        assert delays == spread(count)


def test_of_two_running_jobs_one_goes() -> None:
    plan = plan_task(task(status(attempt())), [job(), job(2)], WAIT, NOW, POLICY)
    assert [entry.number for entry in plan.delete] == [2]


STAGES = [
    ("new", task(), [], Stage.READY),
    ("running", task(status(attempt())), [job()], Stage.ACTIVE),
    ("end not recorded", task(status(attempt())), [complete()], Stage.ACTIVE),
    ("Job not seen", task(status(attempt())), [], Stage.ACTIVE),
    ("Job not recorded", task(), [job()], Stage.ACTIVE),
    ("Job of another", task(), [job(owner="x")], Stage.READY),
    ("recorded", task(status(attempt(outcome=FAILED, **LONG_AGO))), [failed(exit_code=75)], Stage.READY),
    (
        "waits",
        task(status(attempt(outcome=FAILED), next_attempt_time=NOW + timedelta(seconds=9))),
        [],
        Stage.BACKOFF,
    ),
    ("suspended", task(suspend=True), [], Stage.SUSPENDED),
    ("ended", task(ended("True")), [], Stage.ENDED),
    ("ended, but its Job runs", task(ended("True")), [job()], Stage.ACTIVE),
    ("cancelled, but its Job runs", task(status(attempt()), cancel=True), [job()], Stage.ACTIVE),
    ("cancelled", task(cancel=True), [], Stage.ENDED),
]


@pytest.mark.parametrize(
    ("task", "jobs", "stage"), [row[1:] for row in STAGES], ids=[row[0] for row in STAGES]
)
def test_the_stage_counts_whatever_may_run(task: AgentTask, jobs: list[Job], stage: Stage) -> None:
    assert stage_of(task, jobs, NOW, POLICY) is stage


def test_a_job_of_an_ended_task_is_deleted_and_looked_at_again() -> None:
    plan = plan_task(task(ended("True")), [job()], WAIT, NOW, POLICY)
    assert plan.delete
    assert plan.requeue_at is not None


def test_a_wait_that_a_provider_asked_for_outlasts_a_suspension() -> None:
    """`Retry-After: 800`, and somebody suspends the task and resumes it a minute later."""
    until = NOW + timedelta(seconds=730)
    waits = status(attempt(outcome=FAILED), phase=Phase.BACKOFF, next_attempt_time=until)
    suspended = plan_task(task(waits, suspend=True), [], GO, NOW, POLICY).status
    assert suspended is not None
    assert (suspended.phase, suspended.next_attempt_time) == (Phase.SUSPENDED, until)
    later = NOW + timedelta(seconds=60)
    resumed = plan_task(task(suspended), [], GO, later, POLICY)
    assert (resumed.stage, resumed.create) == (Stage.BACKOFF, None)
    assert resumed.requeue_at == until


def test_a_task_whose_attempt_was_withdrawn_is_cancelled_and_answers_what_the_attempt_has_read() -> None:
    withdrawn = failed(**said(Reason.WITHDRAWN, answered="7"))
    plan = plan_task(task(), [withdrawn], GO, NOW, POLICY)
    assert plan.create is None, "another attempt would work for nobody"
    assert plan.status is not None
    assert (plan.status.phase, plan.status.reason) == (Phase.CANCELLED, "Cancelled")
    [recorded] = plan.status.attempts
    assert (recorded.reason, recorded.answered) == (Reason.WITHDRAWN, "7")
    assert str(answered_by(task(plan.status))) == "7"


def test_an_attempt_that_read_before_it_was_cancelled_does_not_say_what_the_task_answers() -> None:
    withdrawn = failed(**said(Reason.WITHDRAWN, answered="7"))
    plan = plan_task(task(cancel=True), [withdrawn], GO, NOW, POLICY)
    assert plan.status is not None
    assert answered_by(task(plan.status, cancel=True)) is None
