"""What an item shows in each state of its task: examples that the operator and the reporter write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Links, comment, label_changes
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task import agenttask
from coding_agent_core.task.agenttask import AgentTask, AttemptStatus, OutcomeType, TaskResult
from coding_agent_core.task.model import Item, Origin, Phase, TaskRequest, Trigger, task_name
from coding_agent_core.task.reasons import REASONS, PodReason, Reason
from coding_agent_core.task.verification import Evidence, SideEvidence, judged, verified
from coding_agent_operator.cluster.observed import Job, job_name
from coding_agent_operator.reporter.report import report_of
from coding_agent_operator.tasks.budgets import Exhausted
from coding_agent_operator.tasks.outcome_of import AttemptOutcome, PodProblem
from coding_agent_operator.tasks.plan import SchedulingDecision, status_of
from coding_agent_operator.tasks.state import Stage, TaskOutcome, TaskState

_NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
_BEGAN = _NOW - timedelta(minutes=5)
_ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)
_LABELS = Labels()
_LINKS = Links("https://github.com", "coding-agent/")
_CHANGE = TaskResult(
    branch="coding-agent/issue-7",
    change_url="https://github.com/octo/demo/pull/8",
    summary="The sum was a difference. A test covers it now.",
)


_COMMIT = "4f0c2a1b" * 5


def _side(code: int, commit: str) -> SideEvidence:
    command = verified("make test", code, 12, "1 failed, 41 passed" if code else "")
    return SideEvidence(job="…", tries=1, commit=commit, commands=(command,), settled=True)


_EVIDENCE = judged(
    Evidence(commit=_COMMIT, started=_NOW, head=_side(2, _COMMIT), base=_side(0, "9b7d3e5f" * 5))
)


@dataclass(frozen=True)
class _Example:
    """A state of a task.

    Attributes:
        when: what has happened, for the page; empty if the title and the comment say it.
        cause: who or what cancelled it.
        is_whole: whether the page shows the whole comment.
    """

    title: str
    when: str
    state: TaskState
    decision: SchedulingDecision = field(default_factory=SchedulingDecision)
    cancel: bool = False
    suspend: bool = False
    cause: str = ""
    is_whole: bool = False


def states_section(head: str) -> str:
    """Return `head`, a table with a row for each state, and the whole comments of some."""
    examples = (*_waiting(), *_with_attempts(), *_after_the_work())
    rows = "".join(_row(example) for example in examples)
    whole = "".join(_whole(example) for example in examples if example.is_whole)
    return f"{head}\n| state | phase and reason | label | comment |\n|---|---|---|---|\n{rows}{whole}"


def _row(example: _Example) -> str:
    task = _task(example)
    title, *paragraphs = _comment(example).split("\n\n")
    # What is the same in all comments, or only shown in a whole one, is left out: times, quotations, tables.
    said = " ".join(part for part in paragraphs if part[0] not in "<>|")
    if example.is_whole:
        said = "The whole comment is below."
    text = f"*{title.strip('*').removeprefix('Coding agent: ')}*{'. ' if said else ''}{said}"
    status = f"`{task.status.phase}`, `{task.status.reason}`"
    return f"| {f'**{example.title}.** {example.when}'.strip()} | {status} | {_label(task)} | {text} |\n"


def _whole(example: _Example) -> str:
    quoted = "\n".join(f"> {line}".rstrip() for line in _comment(example).splitlines())
    return f"\nThe whole comment of *{example.title}*:\n\n{quoted}\n"


def _comment(example: _Example) -> str:
    """Return the visible part of the comment."""
    report = report_of(_task(example), _LABELS, _LINKS, cause=example.cause)
    return comment(report).rsplit("\n\n", 1)[0]


def _label(task: AgentTask) -> str:
    """Return the label that the task's item has, if it had the default trigger label."""
    phase = report_of(task, _LABELS, _LINKS).state.phase
    present = frozenset({_LABELS.trigger(None)} if phase is Phase.QUEUED else {_LABELS.processing_label})
    added, removed = label_changes(phase, _LABELS, present)
    return " ".join(f"`{name}`" for name in sorted((present | set(added)) - set(removed))) or "none"


def _task(example: _Example) -> AgentTask:
    request = TaskRequest(item=_ITEM, user="ada", trigger=Trigger(origin=Origin.WEBHOOK, received_at=_BEGAN))
    body = agenttask.manifest(request, run=1, timeout_seconds=3600, max_attempts=3)
    body["metadata"] |= {"uid": "…", "generation": 1, "creationTimestamp": _BEGAN.isoformat()}
    body["spec"] |= {"cancel": example.cancel, "suspend": example.suspend}
    task = AgentTask.of(body)
    status = status_of(task, example.state, example.decision, _NOW)
    return AgentTask.of({**body, "status": status.to_wire()})


def _attempt(number: int = 1, ended: Reason | PodReason | None = None) -> AttemptStatus:
    known = AttemptStatus(number=number, job=job_name(task_name(_ITEM), number), start_time=_BEGAN)
    if ended is None:
        return known
    facts = REASONS[ended]
    return known.model_copy(
        update={
            "completion_time": _NOW,
            "outcome": OutcomeType.FAILED,
            "reason": ended.value,
            "message": facts.message,
        }
    )


def _state(stage: Stage, *attempts: AttemptStatus, live: bool = False) -> TaskState:
    job = Job(name="…", uid="…", owner="…", task="…", number=1, created=_BEGAN, labels={})
    return TaskState(stage, attempts, (job,) if live else (), (), len(attempts) + 1)


def _ended(phase: Phase, reason: Reason | PodReason, rest: str = "", attempts: int = 1) -> TaskState:
    outcome = TaskOutcome(phase, reason.value, f"{REASONS[reason].message}{rest}")
    ended = [_attempt(number, reason) for number in range(1, attempts + 1)]
    return replace(_state(Stage.ENDED, *ended), outcome=outcome)


def _problem(reason: PodReason, detail: str) -> TaskState:
    outcome = AttemptOutcome(reason, f"{REASONS[reason].message} {detail}")
    problem = PodProblem(outcome, patience=600.0, over=False)
    return replace(_state(Stage.ACTIVE, _attempt(), live=True), problem=problem)


def _waiting() -> Iterator[_Example]:
    """Yield the states before an attempt's Job exists."""
    ready = _state(Stage.READY)
    yield _Example(
        "Waiting for its turn",
        "",
        ready,
        SchedulingDecision(position=3),
    )
    yield _Example(
        "Waiting for the item's older run",
        "The label was applied again while the last run still ends.",
        ready,
        SchedulingDecision(after=task_name(_ITEM)),
    )
    yield _Example(
        "Waiting for a budget",
        "",
        ready,
        SchedulingDecision(exhausted=Exhausted("The budget of octo/demo for this month is used up.")),
    )
    yield _Example("A command waits", "", _state(Stage.HELD))
    yield _Example(
        "The cluster refuses the Job",
        "For example a ResourceQuota is used up.",
        ready,
        SchedulingDecision(refused="POST jobs answered 403: exceeded quota"),
    )


def _with_attempts() -> Iterator[_Example]:
    """Yield the states from the first Job until the task ends."""
    running = replace(_state(Stage.ACTIVE, _attempt(), live=True), started=True)
    second = replace(
        _state(Stage.ACTIVE, _attempt(1, Reason.MODEL_UNAVAILABLE), _attempt(2), live=True), started=True
    )
    backoff = replace(
        _state(Stage.BACKOFF, _attempt(1, Reason.MODEL_UNAVAILABLE)),
        next_attempt_time=_NOW + timedelta(minutes=1),
    )
    yield _Example("Starting", "", _state(Stage.ACTIVE, _attempt(), live=True))
    yield _Example(
        "Cannot start: no node",
        "",
        _problem(PodReason.UNSCHEDULABLE, "0/3 nodes are available: 3 Insufficient memory."),
    )
    yield _Example(
        "Cannot start: no image",
        "",
        _problem(PodReason.ERR_IMAGE_PULL, "not found"),
    )
    yield _Example("Running", "", running)
    yield _Example("Running again", "", second)
    yield _Example(
        "Being cancelled", "The label was removed; the pod has not ended yet.", running, cancel=True
    )
    yield _Example("Between two attempts", "", backoff)
    yield _Example(
        "Suspended", "Somebody set `spec.suspend`.", _state(Stage.SUSPENDED, _attempt()), suspend=True
    )


def _after_the_work() -> Iterator[_Example]:
    """Yield the states while the work is verified, and after the task has ended."""
    yield _Example(
        "Done",
        "",
        replace(_ended(Phase.SUCCEEDED, Reason.COMPLETED), result=_CHANGE),
    )
    checked = replace(_ended(Phase.SUCCEEDED, Reason.COMPLETED), result=_CHANGE, evidence=_EVIDENCE)
    pending = judged(Evidence(commit=_COMMIT, started=_NOW))
    yield _Example(
        "Being verified",
        "The change is open, and the repository's commands check it once more.",
        replace(checked, stage=Stage.ACTIVE, outcome=None, evidence=pending),
    )
    yield _Example("Done, but its verification fails", "", checked, is_whole=True)
    yield _Example(
        "Nothing to change",
        "",
        _ended(Phase.SUCCEEDED, Reason.NOTHING_TO_CHANGE),
    )
    yield _Example(
        "Failed",
        "No attempt is left. The reason says what helps: "
        "see [the list of reasons](troubleshooting.md#failed).",
        _ended(
            Phase.FAILED,
            Reason.MODEL_UNAVAILABLE,
            " That was attempt 3 of 3.",
            attempts=3,
        ),
    )
    yield _Example(
        "Failed, with work to keep",
        "The attempt pushed before it ended; no change was opened.",
        replace(
            _ended(Phase.FAILED, Reason.BUDGET_EXCEEDED),
            result=TaskResult(branch="coding-agent/issue-7"),
        ),
    )
    yield _Example(
        "Cancelled",
        "The label was removed, or somebody wrote `/cancel`.",
        _ended(Phase.CANCELLED, Reason.CANCELLED),
        cancel=True,
        cause="ada removed the label",
    )
