"""The fields of an AgentTask about its round: the cause of its creation, and its result. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from coding_agent_core.task.model import Cause, Phase, RoundTrigger, identity_hash
from coding_agent_core.task.round_cause import RoundCause, RoundKind
from coding_agent_core.task.round_record import (
    EndedRound,
    RerunEntry,
    RoundEnd,
    RoundEntry,
    RoundRecord,
    RoundResult,
    covers,
    ended_round,
    entry_of,
    spending,
    with_entry,
    with_reruns,
    with_superseded,
)
from coding_agent_core.task.usage import Usage

REPORTED_RERUNS = 5
"""Maximum number of re-runs that a round reports, because its whole report has to fit into 4 KiB."""
ENDS = {
    Phase.SUCCEEDED: RoundEnd.NO_PUSH,
    Phase.FAILED: RoundEnd.FAILED,
    Phase.CANCELLED: RoundEnd.CANCELLED,
}
"""The end of a round that has reported nothing, by the phase of its task."""


ROUND_CAUSES = frozenset(Cause(kind.value) for kind in RoundKind)
"""The causes of rounds. A task with another cause is not a round, whatever else it says about itself."""


class RoundReport(EndedRound):
    """The result of a round as its attempt reports it, with the checks that the attempt ran again."""

    reruns: tuple[RerunEntry, ...] = Field(default=(), max_length=REPORTED_RERUNS)

    def owing(self, ids: Collection[str]) -> RoundReport:
        """Return the report of a round in which these remarks got no reply."""
        keys = tuple(one for one in self.keys if one not in ids)
        return self.model_copy(update={"keys": keys, "owed": tuple(sorted(ids))})


def report_of_round(result: RoundResult, reruns: Iterable[RerunEntry] = ()) -> RoundReport:
    """Return the report of an attempt about its round."""
    return RoundReport(**vars(ended_round(result)), reruns=tuple(reruns)[-REPORTED_RERUNS:])


def round_report(value: Any) -> Any:
    """Read an attempt's report. A broken one is `None`, so that the rest of the status stays readable."""
    if value is None or isinstance(value, RoundReport):
        return value
    try:
        return RoundReport.model_validate(value)
    except ValidationError:
        return None


def trigger_of(cause: RoundCause, decided_at: datetime) -> tuple[Cause, RoundTrigger]:
    """Return the trigger that an AgentTask stores for a round.

    Args:
        decided_at: the time of the decision, by the forge's clock.
    """
    return Cause(cause.kind.value), RoundTrigger(
        cause=cause.identity,
        name_part=cause.name_part,
        head=cause.head,
        number=cause.number,
        of=cause.limit,
        decided_at=decided_at,
        seen=cause.seen,
        acts=cause.acts,
    )


def cause_of(trigger: RoundTrigger) -> RoundCause:
    """Return the cause for which a round was created, without `errors`, which a trigger does not store.

    Raises:
        ValueError: the text is not the identity of a cause.
    """
    try:
        kind, _, *ids, again = json.loads(trigger.cause)
        return RoundCause(
            RoundKind(kind),
            tuple(map(str, ids)),
            trigger.head,
            again=int(again),
            number=trigger.number,
            limit=trigger.of,
            seen=trigger.seen,
            acts=trigger.acts,
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a person can write a task
        raise ValueError(f"not the identity of a round's cause: {trigger.cause[:200]!r}") from error


def round_phrase(trigger: RoundTrigger, report: RoundReport | None = None) -> str:
    """Return which round of its kind a task is, for people, e.g. `checks round 2 of 3`.

    A round that worked on another kind of cause than it was created for has no count: `conflict round`.

    Args:
        report: what the round's attempt reported, if it has.

    Raises:
        ValueError: the trigger has no cause.
    """
    cause = cause_of(trigger)
    if report is not None and report.kind is not cause.kind:
        return f"{report.kind} round"
    return f"{cause.kind} {cause.count}"


def recorded(
    record: RoundRecord,
    trigger: RoundTrigger,
    report: RoundReport | None,
    end: RoundEnd,
    *,
    superseded: bool = False,
    usage: Usage | None = None,
) -> RoundRecord:
    """Return the record with a round added whose run has ended. The call can be repeated.

    The cause that gave the round its name is always recorded, because its name is taken. If the round worked
    on another cause, the first cause is recorded as superseded. If nothing was reported, the round is
    recorded with the end of its run. A round that was superseded before it used a model leaves only the hash
    of its cause, so that waiting rounds do not fill the record.

    Args:
        report: what the round's attempt reported.
        end: how the run ended, if nothing was reported.
        superseded: whether the run was cancelled for a reason that supersedes a round
            (`WithdrawalCause.supersedes`).
        usage: what all attempts of the round used; `None` if that is not known.

    Raises:
        ValueError: the trigger has no cause.
    """
    created = cause_of(trigger)
    if superseded and end is RoundEnd.CANCELLED:
        end = RoundEnd.SUPERSEDED
    if superseded and report is not None and report.end is RoundEnd.CANCELLED:
        report = report.model_copy(update={"end": RoundEnd.SUPERSEDED})
    if record.full:
        return record  # no further round starts, and a full record would drop its oldest round each time
    name, began = identity_hash(created.identity), usage is not None and usage != Usage()
    if report is None:
        if end is RoundEnd.SUPERSEDED and not began:
            return with_superseded(record, name)
        result = RoundResult(created, trigger.decided_at, end, created.head)
        return with_entry(record, entry_of(result, usage))
    covered = covers(report.kind, report.before, report.keys, created)
    if report.identity != name and (not covered or report.end is RoundEnd.SUPERSEDED):
        record = with_superseded(record, name)
    if report.end is RoundEnd.SUPERSEDED and not began:
        grown = with_superseded(record, report.identity)
        return record if grown is record else with_reruns(grown, report.reruns)
    kept = {name: getattr(report, name) for name in EndedRound.model_fields}
    grown = with_entry(record, RoundEntry(**kept, **spending(usage)))
    # If the record already had the round, it got the round's re-runs at that time. Adding them again could
    # drop re-runs of newer heads.
    return record if grown is record else with_reruns(grown, report.reruns)
