"""The commit statuses that show a task and its evidence on the change. Pure.

The comment's hidden line says which of them were written. So each is written once, and again only if somebody
deletes the comment, or if another account sets the status of our evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coding_agent_core.forge.changes import (
    ChangeSnapshot,
    CheckConclusion,
    CheckKind,
    CheckResult,
    CheckState,
)
from coding_agent_core.forge.values import CommitState, CommitStatus
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_cause import OWN_STATUS
from coding_agent_core.task.verification import NOT_CHECKED, VERIFY_STATUS, EvidenceState

from coding_agent_operator.reporter.item_plan import phase_to_show

_WAITS = {
    Phase.QUEUED: "The coding agent waits for its turn.",
    Phase.SUSPENDED: "The task is suspended.",
    Phase.BACKOFF: "The last attempt failed; another one follows.",
}
_CONCLUSIONS = {
    CommitState.SUCCESS: CheckConclusion.SUCCESS,
    CommitState.FAILURE: CheckConclusion.FAILURE,
    CommitState.ERROR: CheckConclusion.FAILURE,
}
_NOT_RECORDED = f"{NOT_CHECKED}: another account set this status, and no result for this commit is recorded."
_ENDS = {
    Phase.SUCCEEDED: (CommitState.SUCCESS, "The task is done."),
    Phase.FAILED: (CommitState.FAILURE, "The task failed."),
    Phase.CANCELLED: (CommitState.ERROR, "The task was cancelled."),
}


@dataclass(frozen=True)
class StatusOn:
    """A commit status, and the commit that carries it."""

    commit: str
    status: CommitStatus

    @property
    def key(self) -> str:
        """The entry in the comment's hidden line that records that the status was written."""
        return f"{self.status.name} {self.commit} {self.status.state}"


def commit_statuses(task: AgentTask) -> tuple[StatusOn, ...]:
    """Return the statuses that should be on commits now.

    A label task has no commit until its first push. A round starts on the head for which it was created. If
    it pushes, the status moves on with the head.
    """
    result, evidence, trigger = task.status.result, task.status.verify, task.spec.trigger.round
    pushed, start = (
        result.commit if result is not None else None,
        trigger.head if trigger is not None else None,
    )
    state, text = _of_task(task)
    url = _page_of(task)
    found = []
    if start is not None and start != pushed:
        moved = (CommitState.SUCCESS, f"The work continued with {pushed[:12]}.") if pushed else (state, text)
        found.append(StatusOn(start, CommitStatus(OWN_STATUS, *moved, url)))
    if pushed is not None:
        found.append(StatusOn(pushed, CommitStatus(OWN_STATUS, state, text, url)))
    if evidence is not None:
        verified = CommitStatus(VERIFY_STATUS, CommitState(evidence.state.value), evidence.description, url)
        found.append(StatusOn(evidence.commit, verified))
    return tuple(found)


def foreign_evidence(snapshot: ChangeSnapshot) -> bool:
    """Whether another account has overwritten our evidence status on the head commit.

    Everybody who may write statuses can do that, and so can the CI that runs on the agent's branch.
    """
    own = snapshot.own.id
    return bool(own) and any(
        _is_evidence(check) and check.creator not in (None, own) for check in snapshot.checks
    )


def own_evidence(head: str, runs: Sequence[AgentTask], url: str) -> CommitStatus:
    """Return the evidence of a commit that its tasks record; `error` if no task records any.

    Args:
        runs: the runs of the change, and of the issue that it answers.
        url: the address of the change.
    """
    for run in runs:
        evidence = run.status.verify
        if evidence is not None and evidence.commit == head:
            state = CommitState(evidence.state.value)
            return CommitStatus(VERIFY_STATUS, state, evidence.description, _page_of(run))
    return CommitStatus(VERIFY_STATUS, CommitState.ERROR, _NOT_RECORDED, url)


def with_evidence(snapshot: ChangeSnapshot, status: CommitStatus) -> ChangeSnapshot:
    """Return the snapshot with its evidence status replaced by this one."""
    conclusion = _CONCLUSIONS.get(status.state)
    shown = [
        replace(
            check,
            state=CheckState.WAITING if conclusion is None else CheckState.COMPLETED,
            conclusion=conclusion,
            errors="" if conclusion is CheckConclusion.SUCCESS else status.description,
            creator=snapshot.own.id,
        )
        if _is_evidence(check)
        else check
        for check in snapshot.checks
    ]
    return replace(snapshot, checks=tuple(shown))


def _page_of(task: AgentTask) -> str:
    """Return the address of the item's page; empty if it is not on the item's forge.

    Whoever has the receiver's token could write any address. The text is compared, because browsers find
    another host than Python in some addresses.
    """
    url, host = task.spec.url, task.spec.source.host
    return (
        url
        if url.lower().startswith(tuple(f"{scheme}://{host}/".lower() for scheme in ("https", "http")))
        else ""
    )


def _is_evidence(check: CheckResult) -> bool:
    return check.kind is CheckKind.STATUS and check.name == VERIFY_STATUS


def _of_task(task: AgentTask) -> tuple[CommitState, str]:
    phase, evidence = phase_to_show(task), task.status.verify
    if not phase.terminal:
        if evidence is not None and evidence.pending:
            return CommitState.PENDING, "The work is pushed; its verification runs."
        return CommitState.PENDING, _WAITS.get(phase, "The coding agent works.")
    state, text = _ENDS[phase]
    if phase is Phase.SUCCEEDED and evidence is not None and evidence.state is not EvidenceState.SUCCESS:
        red = evidence.state is EvidenceState.FAILURE
        return (
            (CommitState.FAILURE, "The task is done, but its verification fails.")
            if red
            else (CommitState.ERROR, "The task is done, but could not be verified.")
        )
    return state, text
