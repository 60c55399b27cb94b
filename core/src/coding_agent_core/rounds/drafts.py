"""Decides when a draft that our account opened is ready for review. Pure.

The forge's own events say whether a person has decided about the draft, so our record needs no copy of that.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from coding_agent_core.forge.changes import (
    ChangeEventKind,
    ChangeSnapshot,
    CheckConclusion,
    CheckState,
    Mergeability,
    Part,
)
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.task.round_cause import OWN_STATUS, RoundKind, RoundPolicy, Waiting, Work

_PASSED = frozenset({CheckConclusion.SUCCESS, CheckConclusion.SKIPPED, CheckConclusion.NEUTRAL})
_DOES_NOT_MERGE_YET = frozenset({Mergeability.CONFLICT, Mergeability.UNKNOWN})
_DECIDED = frozenset({ChangeEventKind.DRAFTED, ChangeEventKind.READY})


def with_draft(
    work: Work, snapshot: ChangeSnapshot, policy: RoundPolicy, now: datetime, *, active: bool
) -> Work:
    """Add to the work whether our draft is to be marked as ready, or why it waits.

    Args:
        active: whether another run of the change waits or works.
    """
    if not policy.draft or not _is_ours_to_end(snapshot):
        return work
    waiting = _waiting(snapshot, policy, now)
    if waiting is not None:
        return replace(work, waiting=(*work.waiting, waiting))
    return replace(work, ready=not (active or work.due or work.reruns))


def _is_ours_to_end(snapshot: ChangeSnapshot) -> bool:
    """Whether the change is a draft only because we opened it as one.

    Once the change has been ready, or somebody has made it a draft, people decide.
    """
    # Such an event may be older than the events that the snapshot shows.
    if Part.EVENTS in snapshot.left_out:
        return False
    return snapshot.draft and _DECIDED.isdisjoint(event.kind for event in snapshot.events)


def _waiting(snapshot: ChangeSnapshot, policy: RoundPolicy, now: datetime) -> Waiting | None:
    """Return why the draft is not ready yet; `None` if it is.

    A change without checks is ready if no check has appeared within the quiet time of checks.
    """
    noun = FACTS[snapshot.item.platform].change_noun
    why = f"The {noun} is a draft until its checks have passed."
    checks = [check for check in snapshot.checks if check.name != OWN_STATUS]
    passed = all(one.state is CheckState.COMPLETED and one.conclusion in _PASSED for one in checks)
    # A check that was not read may have failed.
    unread = bool(snapshot.checks_problem) or Part.CHECKS in snapshot.left_out
    if not passed or unread or snapshot.mergeability in _DOES_NOT_MERGE_YET:
        return Waiting(RoundKind.CHECKS, None, why)
    ended = [check.completed_at for check in checks if check.completed_at is not None]
    last = max(ended, default=snapshot.head_at or snapshot.updated_at)
    until = min(last, now) + policy.checks_quiet
    return Waiting(RoundKind.CHECKS, until, why) if until > now else None
