"""The report that the reporter writes into the comment, the conditions that it sets, and its memory. Pure.

The same task always gives the same report, so the reporter writes nothing when nothing has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Literal

from coding_agent_core.forge.values import Comment
from coding_agent_core.reporting.comment import Links, Report, State, retry_cause
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import (
    ANNOTATION_CANCELLED,
    AgentTask,
    AttemptStatus,
    Condition,
    OutcomeType,
    TaskResult,
    attempt_name,
    shown_attempt,
)
from coding_agent_core.task.model import Item, Phase
from coding_agent_core.task.reasons import REASONS, PodReason
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.round_report import ENDS, ROUND_CAUSES, recorded, round_phrase
from coding_agent_core.task.runs import is_superseded
from coding_agent_core.task.usage import Usage

from coding_agent_operator.reporter.commit_statuses import commit_statuses
from coding_agent_operator.reporter.item_plan import phase_to_show
from coding_agent_operator.tasks.plan import OPERATOR_DEFECT

_logger = logging.getLogger("reporter.report")

_SAME_AS_PHASE = ("Waiting", "Starting", "Running")
"""Reasons whose message says no more than the phase, or less than why there is another attempt."""
_JOB_REFUSED = (
    "The cluster does not accept the attempt's Job; the bot keeps trying. "
    "The administrator of this bot can read the cluster's answer in the task's status."
)
"""Replaces the API server's answer, which names things that strangers should not see."""
_OPERATOR_DEFECTIVE = (
    "A defect keeps the bot from working on this task; it keeps trying. "
    "The administrator of this bot can read more in the task's status."
)
_CLUSTER_WORDS = {
    *(reason for reason, facts in REASONS.items() if facts.patience and reason != PodReason.SECRET_MISSING),
    *(PodReason.POD_NOT_ENDING, PodReason.POD_LOST, PodReason.STORAGE_EXCEEDED, PodReason.INIT_FAILED),
}
"""Reasons whose message can end with text from the kubelet, the scheduler or a container. Such text names
nodes, registries and volumes. `SECRET_MISSING` is left out, because its message is our own."""
_DETAILS = "The administrator of this bot can read the details in the task's status."
_ENDING = ("Cancelling", "Suspending")
_ACTIVITIES = {
    "Cancelling": "being cancelled",
    "Suspending": "being suspended",
    "Verifying": "verifying its work",
}
"""Headlines by reason that replace those of the phases Starting and Running."""
_CAUSE_LIMIT = 256
_NO_ROUNDS = RoundRecord()
_UNSET = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Outage:
    """A period in which the forge does not answer.

    Attributes:
        since: when it began, as an aware time.
        began: the same moment in monotonic time.
        error: the last error.
    """

    since: datetime
    began: float
    error: str = ""


@dataclass
class TaskMemory:
    """The reporter's memory of a task between two reconciles. If it is lost, the next reconcile rebuilds it.

    Attributes:
        without_position: the comment's text without the position in the queue.
        remembered: the state that the comment showed before our first edit, if any; `None` until it was read.
        earlier: the states of earlier runs, the newest first, and `remembered`.
        rounds: the record of the change's rounds, without this run.
        written: monotonic time of the last edit of the comment.
        due: monotonic time of the next check if nothing happens to the item.
        end_shown: when the item first showed the end of the task.
        unsure_since: monotonic time since which the item's history may lack an event; `None` if it does not.
        rescan_at: the time of the request for which it was read.
        answered: the position up to which the item's past runs answer its events, as text.
        failures: the number of reconciles that failed since the last success.
        refusals: the number of these that the forge refused.
        outage: set while the forge does not answer requests for this task; it may answer others.
        postponed: the phase of the task when the rate limits postponed its new comment.
        problem: the reason of the problem that the task's conditions show.
        cause: who or what cancelled the task.
        statuses: the commit statuses that were written, even if the comment does not say so yet.
    """

    uid: str
    comment: Comment | None = None
    without_position: str = ""
    remembered: tuple[State] | tuple[()] | None = None
    earlier: tuple[State, ...] = ()
    rounds: RoundRecord = _NO_ROUNDS
    written: float = -inf
    due: float = -inf
    end_shown: datetime | None = None
    unsure_since: float | None = None
    rescan_at: datetime | None = None
    answered: str | None = None
    failures: int = 0
    refusals: int = 0
    outage: Outage | None = None
    postponed: Phase | None = None
    problem: str = ""
    cause: str = ""
    statuses: set[str] = field(default_factory=set)

    def forget_comment(self) -> None:
        """Forget what the item's comment shows, so that it is read again before it is used."""
        self.comment = self.remembered = None
        self.without_position = ""


def report_of(
    task: AgentTask,
    labels: Labels,
    links: Links,
    earlier: Iterable[State] = (),
    cause: str = "",
    *,
    rounds: RoundRecord = _NO_ROUNDS,
    notes: tuple[str, ...] = (),
    answered: str | None = None,
) -> Report:
    """Build the report of an item's newest run.

    Args:
        links: checks what the report may link to. A branch or change with a problem (`link_problems`) is left
            out.
        earlier: the states of earlier runs, newest first. A run continues on the branch of the previous run
            while the change of that branch is open. So the report shows this branch and change, however the
            run ends, until the run pushes to another branch.
        cause: who or what cancelled the run, from `cancellation_cause`.
        rounds: the record of the change's rounds, without this run.
        notes: what the change's next round waits for, or why there is none.
        answered: the position up to which the item's past runs answer its events.
    """
    phase, result, attempts = phase_to_show(task), task.status.result, task.status.attempts
    item = task.spec.item
    pushed, change = _checked(result.branch, result.change_url, item, links) if result else (None, None)
    before = [_checked(state.branch, state.change_url, item, links) for state in earlier]
    branch = pushed or next((known for known, _ in before if known), None)
    if change is None and branch is not None:
        change = next((url for known, url in before if known == branch and url), None)
    usage = result.usage if result else None
    last = attempts[-1] if attempts else None
    show_reason = phase.terminal or phase is Phase.BACKOFF
    condition = task.status.condition("Succeeded")
    return Report(
        task=task.name,
        item=item,
        labels=labels,
        state=State(
            uuid=task.uid,
            run=task.spec.run,
            attempt=max(1, shown_attempt(attempts)),
            phase=phase,
            branch=branch,
            change_url=change,
            runner=task.spec.runner,
            rounds=record if (record := with_round(rounds, task)) != _NO_ROUNDS else None,
            statuses=tuple(one.key for one in commit_statuses(task)),
            answered=answered,
        ),
        max_attempts=task.spec.max_attempts,
        since=_since(task, phase),
        activity=_activity(phase, condition.reason if condition else ""),
        position=task.status.queue_position if phase is Phase.QUEUED else None,
        next_attempt=task.status.next_attempt_time,
        reason=condition.reason if condition and show_reason else None,
        message=_message(task, phase, cause),
        summary=(result.summary or "") if result and phase.terminal else "",
        usage=usage or Usage(),
        pushed=pushed is not None,
        began=bool(attempts),
        tail=(last.tail or "") if last and last.outcome is OutcomeType.FAILED and show_reason else "",
        last=last,
        round=_round(task),
        notes=notes,
        evidence=task.status.verify,
    )


def with_round(record: RoundRecord, task: AgentTask) -> RoundRecord:
    """Return the record with a run of the change, if the run is a round and has ended. Can be repeated."""
    trigger, phase = task.spec.trigger.round, task.status.terminal_phase
    if trigger is None or phase is None or task.spec.trigger.cause not in ROUND_CAUSES:
        return record
    result, superseded = task.status.result or TaskResult(), is_superseded(task)
    try:
        return recorded(record, trigger, result.round, ENDS[phase], superseded=superseded, usage=result.usage)
    except ValueError as error:  # a person wrote the task
        _logger.warning("%s is not recorded as a round: %s", task.name, error)
        return record


def _round(task: AgentTask) -> str:
    trigger, result = task.spec.trigger.round, task.status.result or TaskResult()
    if trigger is None:
        return ""
    try:
        return round_phrase(trigger, result.round)
    except ValueError:  # a person wrote the task
        return ""


def link_problems(task: AgentTask, links: Links) -> list[str]:
    """Return why the report does not show the branch or change that the agent reported, in sentences."""
    result, item = task.status.result or TaskResult(), task.spec.item
    return [
        problem
        for problem in (
            links.branch_problem(result.branch, item) if result.branch else None,
            links.change_problem(result.change_url, item) if result.change_url else None,
        )
        if problem is not None
    ]


def _checked(
    branch: str | None, change: str | None, item: Item, links: Links
) -> tuple[str | None, str | None]:
    return (
        branch if branch and links.branch_problem(branch, item) is None else None,
        change if change and links.change_problem(change, item) is None else None,
    )


def _message(task: AgentTask, phase: Phase, cause: str) -> str:
    condition = task.status.condition("Succeeded")
    if condition is None:
        return ""
    if condition.reason in _SAME_AS_PHASE and not (phase.terminal or phase is Phase.BACKOFF):
        waits = condition.message if condition.reason == "Waiting" else ""
        return _retry_cause(task.status.attempts) or waits
    message = _public(condition.reason, condition.message)
    if phase is Phase.CANCELLED and message and cause:
        return f"{message.removesuffix('.')}: {cause}."
    return message


def _retry_cause(attempts: Sequence[AttemptStatus]) -> str:
    """Return why there is another attempt; empty for the first attempt."""
    ended = [attempt for attempt in attempts if attempt.outcome is not None]
    last = ended[-1] if ended else None
    if last is None or last.reason is None:
        return ""
    return retry_cause(attempt_name(ended), last.reason, _public(last.reason, last.message or ""))


def _public(reason: str, message: str) -> str:
    """Return the message without details that only administrators should see."""
    if reason == "Refused":
        return _JOB_REFUSED
    if reason == OPERATOR_DEFECT:
        return _OPERATOR_DEFECTIVE
    if reason in _ENDING:
        # The rest of the message says why the attempt's pod does not end.
        head, found, _ = message.partition("; its attempt is ending.")
        return f"{head}." if found else message
    if reason in _CLUSTER_WORDS:
        return f"{REASONS[reason].message} {_DETAILS}"
    return message


def _activity(phase: Phase, reason: str) -> str:
    facts = REASONS.get(reason)
    if facts is not None and facts.patience is not None:
        return "cannot start yet"
    return _ACTIVITIES.get(reason, "starting" if phase is Phase.STARTING else "working on it")


def _since(task: AgentTask, phase: Phase) -> datetime:
    """Return when the phase began, as far as the status shows it."""
    attempts, condition = task.status.attempts, task.status.condition("Succeeded")
    if phase.terminal and condition is not None:
        return condition.last_transition_time
    if not attempts:
        return task.metadata.created
    last = attempts[-1]
    return (
        last.start_time
        if phase in (Phase.STARTING, Phase.RUNNING)
        else last.completion_time or last.start_time
    )


def cancellation_cause(task: AgentTask) -> str:
    """Return who or what cancelled the task, as a clause; empty if that is not known.

    Our own programs write the cause into an annotation. If a person used kubectl or our plugin, the API
    server has recorded the name of the program that set `spec.cancel`.
    """
    if not task.spec.cancel:
        return ""
    written = " ".join(task.metadata.annotations.get(ANNOTATION_CANCELLED, "").split())
    if written:
        return written[:_CAUSE_LIMIT].removesuffix(".")
    return "somebody cancelled it with kubectl" if task.cancelled_by.startswith("kubectl") else ""


def has_problem(task: AgentTask) -> bool:
    """Whether the task's conditions show that its item is not up to date."""
    condition = task.status.condition("Reported")
    return condition is not None and condition.status == "False"


def labels_shown(message: str) -> Condition:
    """Return the condition after which a bot label on the item counts as a new application."""
    return _condition("LabelsShown", "True", "Shown", message)


def reported() -> Condition:
    return _condition("Reported", "True", "Shown", "The item shows the current state of the task.")


def unreported(reason: str, message: str) -> Condition:
    return _condition("Reported", "False", reason, message)


def _condition(
    kind: Literal["LabelsShown", "Reported"], status: Literal["True", "False"], reason: str, message: str
) -> Condition:
    # `AgentTasks.set_conditions` sets the time.
    return Condition(
        type=kind, status=status, reason=reason, message=message[:4096], last_transition_time=_UNSET
    )
