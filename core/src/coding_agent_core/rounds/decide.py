"""Decides which work is open on a change, from one snapshot and the record of its rounds. Pure.

Webhooks and polls only ask for a scan of a change. Each scan decides everything anew, so a scan that is lost,
late or repeated changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from coding_agent_core.forge.changes import (
    WRITTEN,
    ChangeEventKind,
    ChangeSnapshot,
    ChangeState,
    Mergeability,
    Part,
)
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.rounds.checks import Diagnosis, diagnose, fingerprints
from coding_agent_core.rounds.drafts import with_draft
from coding_agent_core.rounds.review import Activity, WriteAccess, acts_of, pending_remarks, readable
from coding_agent_core.task.model import ROUND_CAUSE_LIMIT
from coding_agent_core.task.round_cause import (
    IDS_LIMIT,
    STILL_WRITING,
    MayWrite,
    RoundCause,
    RoundKind,
    RoundPolicy,
    Stop,
    StopReason,
    Waiting,
    Work,
    named,
)
from coding_agent_core.task.round_record import RoundEnd, RoundEntry, RoundRecord, covers
from coding_agent_core.task.usage import Allowance

_AGAIN = "To continue, mention the bot in a comment."
_SAME_ERRORS = "After the last round, the same checks fail with the same errors"
_DAY = timedelta(hours=24)
_SUPERSEDED_LIMIT = 5
"""This many times the same cause may start a round again after a round for it was superseded."""
_FAILURES = {
    RoundKind.CONFLICT: "the conflict with the base branch",
    RoundKind.REVIEW: "the review",
    RoundKind.CHECKS: "the failed checks",
}


def open_work(
    snapshot: ChangeSnapshot,
    record: RoundRecord,
    policy: RoundPolicy,
    now: datetime,
    *,
    may_write: MayWrite,
    active: bool = False,
) -> Work:
    """Return the open work on a change.

    The scan calls it to create a round, and the round calls it again when it starts. For the second decision,
    the caller has read permissions anew, and has put the logs of failed checks into `CheckResult.errors`. The
    round works on the first due cause of the second decision, which includes everything new.

    Args:
        now: the time by the forge's clock, normally `read_at` of the snapshot.
        may_write: says whether a person may write; it is never called for our account or for bots.
        active: whether another run of the change waits or works.
    """
    stop = _end_of_all(snapshot, policy, own=snapshot.own.id)
    if stop is not None:
        return Work(stops=(stop,))
    if not snapshot.head_commit:
        return Work(notes=("The branch has no commit.",))
    access = WriteAccess(snapshot.own, policy, may_write)
    acts = acts_of(snapshot, record, policy, access, now)
    facts = _ChangeFacts(snapshot, record, policy, now, acts, access)
    work = facts.work()
    if access.unknown:
        return Work(waiting=work.waiting, notes=work.notes, ask=access.ask)
    work = _behind_the_active(work) if active else work
    return with_draft(work, snapshot, policy, now, active=active)


def interruption(snapshot: ChangeSnapshot, policy: RoundPolicy, head: str) -> Stop | None:
    """Return why a round must not continue; `None` if it may.

    A round asks this before its model starts and again before its push.

    Args:
        head: the head that the round started from, or that it has pushed itself.
    """
    stop = _end_of_all(snapshot, policy, own=snapshot.own.id)
    if stop is None and snapshot.head_commit != head:
        return Stop(StopReason.SUPERSEDED, "Somebody else has pushed to the branch in the meantime.")
    return stop


def _end_of_all(snapshot: ChangeSnapshot, policy: RoundPolicy, *, own: str) -> Stop | None:
    """Return why no work of any kind may be done on the change; `None` if work may be done."""
    noun = FACTS[snapshot.item.platform].change_noun
    # The number of the account counts, because a login can be renamed and taken by somebody else.
    if not own or snapshot.author.id != own:
        return Stop(StopReason.NOT_OURS, f"Another account opened the {noun}, so only the label starts work.")
    if snapshot.state is ChangeState.MERGED:
        return Stop(StopReason.MERGED, f"The {noun} is merged.")
    if snapshot.state is ChangeState.CLOSED:
        return Stop(StopReason.CLOSED, f"The {noun} is closed.")
    if policy.hands_off_label.casefold() in {label.casefold() for label in snapshot.labels}:
        return Stop(StopReason.HANDS_OFF, f"The {noun} has the label `{policy.hands_off_label}`.")
    taken_off = _taken_off_by_a_program(snapshot, policy)
    if taken_off is not None:
        sentence = (
            f"{taken_off} took the label `{policy.hands_off_label}` off this {noun}, and only people may. "
            "Apply the label, and take it off again."
        )
        return Stop(StopReason.HANDS_OFF, sentence)
    # An incomplete list does not prove that the hands-off label is absent.
    if Part.LABELS in snapshot.left_out:
        sentence = f"The {noun} has more labels than are read, and one of them may ask for hands off."
        return Stop(StopReason.HANDS_OFF, sentence)
    return None


def _taken_off_by_a_program(snapshot: ChangeSnapshot, policy: RoundPolicy) -> str | None:
    """Return the login of the bot that took the hands-off label off; `None` if a person did so, or nobody."""
    kinds = (ChangeEventKind.LABELED, ChangeEventKind.UNLABELED)
    name = policy.hands_off_label.casefold()
    events = [one for one in snapshot.events if one.kind in kinds and one.label.casefold() == name]
    last = events[-1] if events else None
    if last is None or last.kind is ChangeEventKind.LABELED or last.actor is None:
        return None
    access = WriteAccess(snapshot.own, policy, lambda _: None)
    return last.actor.login if access.is_ours(last.actor) or access.is_bot(last.actor) else None


_KindDecision = RoundCause | Waiting | Stop | None


@dataclass(frozen=True)
class _ChangeFacts:
    """The facts about a change on which one decision is based, and the rules that decide."""

    snapshot: ChangeSnapshot
    record: RoundRecord
    policy: RoundPolicy
    now: datetime
    acts: Activity
    access: WriteAccess

    def work(self) -> Work:
        diagnosis = diagnose(self.snapshot, self.record, self.policy, self.now)
        found = [self._conflict(), self._review(), self._checks(diagnosis)]
        is_conflict = self.snapshot.mergeability is Mergeability.CONFLICT
        due = tuple(one for one in found if isinstance(one, RoundCause))
        waiting = tuple(one for one in found if isinstance(one, Waiting))
        stops = (*(one for one in found if isinstance(one, Stop)), *diagnosis.stops)
        reruns = () if is_conflict else diagnosis.reruns
        notes = (*diagnosis.notes, *self._notes())
        end = self._end_of_loop() if due or reruns else None
        if end is not None:
            return Work(stops=(end, *stops), notes=notes)
        again = self._enough_for_a_day() if due else None
        if again is not None:
            why = f"There were {self.policy.daily_rounds} rounds within 24 hours, which is the limit."
            paused = tuple(Waiting(cause.kind, again, why) for cause in due)
            return Work((), (*waiting, *paused), stops, reruns, notes, left=self._left())
        return Work(due, waiting, stops, reruns, notes, left=self._left())

    def _notes(self) -> Iterator[str]:
        if self.record.problem:
            problem = self.record.problem
            yield f"The record of earlier rounds cannot be read, so the count starts anew: {problem}."
        if self.snapshot.left_out:
            yield f"Not everything was read: {named(sorted(self.snapshot.left_out))} are left out."

    def _end_of_loop(self) -> Stop | None:
        """Return why no further round of any kind starts; `None` if one may start."""
        noun = FACTS[self.snapshot.item.platform].change_noun
        if self.record.full:
            sentence = f"The {noun} has had {len(self.record.rounds)} rounds, which is the limit."
            return Stop(StopReason.RECORD_FULL, sentence)
        # Only people's acts count: a bot that comments every day would keep a change alive for ever.
        newest = self.acts.last or self.snapshot.created_at
        if self.now - newest >= self.policy.max_age:
            days = self.policy.max_age.days
            sentence = f"Nobody has written or done anything on this {noun} for {days} days. {_AGAIN}"
            return Stop(StopReason.TOO_OLD, sentence)
        left = self._left()
        if left is not None and left.value <= 0:
            sentence = f"The rounds of this {noun} have spent their budget of {self.policy.budget}. {_AGAIN}"
            return Stop(StopReason.BOUND, sentence)
        pushed = [entry for entry in self.record.since(self.acts.acted) if entry.pushed]
        # Two causes that contradict each other would be answered in turns until the limit.
        if len(pushed) > 1 and pushed[-1].patch is not None and pushed[-1].patch == pushed[-2].reverse:
            sentence = f"The last round undid the round before it, so a person has to decide. {_AGAIN}"
            return Stop(StopReason.UNDONE, sentence)
        return None

    def _enough_for_a_day(self) -> datetime | None:
        """Return when the next round may start after too many in 24 hours; `None` if it may start now.

        Superseded rounds that used a model are included, because they cost money too. Nobody can start this
        count anew, because a forge does not distinguish people from programs with a person's account.
        """
        times = sorted(entry.at for entry in self.record.rounds if self.now - _DAY < entry.at <= self.now)
        limit = self.policy.daily_rounds
        return times[-limit] + _DAY if len(times) >= limit else None

    def _left(self) -> Allowance | None:
        """Return the rest of the change's budget; `None` if there is no budget."""
        budget = self.policy.budget
        if budget is None:
            return None
        # A review does not start the budget anew, or a change with many reviews would have no limit.
        first = self.acts.first_round(RoundKind.REVIEW)
        return budget.with_value(budget.value - self.record.spent(budget, first))

    def _conflict(self) -> _KindDecision:
        if self.snapshot.mergeability is Mergeability.UNKNOWN:
            return Waiting(RoundKind.CONFLICT, None, "")  # the forge computes it after each push
        if self.snapshot.mergeability is not Mergeability.CONFLICT or not self.snapshot.base_commit:
            return None
        return self._bounded(RoundKind.CONFLICT, (self.snapshot.base_commit,))

    def _review(self) -> _KindDecision:
        pending = pending_remarks(self.snapshot, self.record, self.policy, self.access)
        if self.access.unknown:
            who = named(sorted(self.access.unknown))
            return Waiting(RoundKind.REVIEW, None, f"It is not known yet whether {who} may push.")
        # An unread remark may be one that needs an answer, so "nothing to do" is not known.
        if not pending and WRITTEN & self.snapshot.left_out:
            return Waiting(RoundKind.REVIEW, None, "Remarks that were not read may need an answer.")
        if not pending:
            return None
        last = max((one.at for one in pending if one.at is not None), default=self.snapshot.updated_at)
        # A time in the future comes from a clock that was set back, and would put the round off.
        until = min(last, self.now) + self.policy.review_quiet
        if until > self.now:
            return Waiting(RoundKind.REVIEW, until, STILL_WRITING)
        ids = readable(pending)
        left = [one.at for one in pending if one.at is not None and one.id not in ids]
        answer = self._bounded(RoundKind.REVIEW, ids)
        if isinstance(answer, RoundCause) and answer.seen is not None and left:
            # GitLab's plain comments belong to a review only if they are newer than this (`_in_comments`).
            answer = replace(answer, seen=min(answer.seen, min(left) - timedelta.resolution))
        return answer

    def _checks(self, diagnosis: Diagnosis) -> _KindDecision:
        if not diagnosis.fixable and diagnosis.waiting is None:
            return None
        if self.snapshot.mergeability is Mergeability.CONFLICT:
            why = "The base does not merge; until it does, the checks mean nothing."
            return Waiting(RoundKind.CHECKS, None, why)
        if diagnosis.waiting is not None:
            return diagnosis.waiting
        names = _short_enough(self.snapshot.head_commit, sorted({check.name for check in diagnosis.fixable}))
        errors = fingerprints(diagnosis.fixable)
        rounds = self.record.since(self.acts.first_round(RoundKind.CHECKS))
        pushed = [entry for entry in rounds if entry.kind is RoundKind.CHECKS and entry.pushed]
        # The same errors after a push: another round would spend money on the same attempt.
        if errors and pushed and pushed[-1].errors and set(pushed[-1].errors) <= set(errors):
            sentence = f"{_SAME_ERRORS}: {named(names)}. {_AGAIN}"
            return Stop(StopReason.NO_PROGRESS, sentence, RoundKind.CHECKS)
        return self._bounded(RoundKind.CHECKS, names, errors[:IDS_LIMIT])

    def _bounded(
        self, kind: RoundKind, ids: tuple[str, ...], errors: tuple[str, ...] = ()
    ) -> RoundCause | Stop:
        """Return the cause with its count, or a `Stop` if the cause had its round or the limit is reached."""
        rounds = self.record.since(self.acts.first_round(kind))
        done, limit = sum(entry.kind is kind for entry in rounds), self.policy.limit(kind)
        cause = RoundCause(
            kind,
            ids,
            self.snapshot.head_commit,
            number=done + 1,
            limit=limit,
            seen=self.acts.seen,
            acts=self.acts.unread,
            errors=errors,
        )
        earlier = _earlier(cause, self.record)
        if earlier is not None:
            return _of_earlier(earlier)
        if done >= limit:
            were = "was 1 round" if limit == 1 else f"were {limit} rounds"
            sentence = f"There {were} for {_FAILURES[kind]}, which is the limit. {_AGAIN}"
            return Stop(StopReason.BOUND, sentence, kind)
        # The name of the superseded round is taken, so its cause returns under another name.
        while self.record.has(cause):
            cause = replace(cause, again=cause.again + 1)
        if cause.again > _SUPERSEDED_LIMIT:
            sentence = f"Rounds for {_FAILURES[kind]} were superseded {cause.again} times. {_AGAIN}"
            return Stop(StopReason.SUPERSEDED, sentence, kind)
        return cause


def _short_enough(head: str, names: list[str]) -> tuple[str, ...]:
    """Return the names of failed checks for one round, without the last ones if the cause would be too long.

    A check's name has no useful limit, but an AgentTask stores the whole cause.
    """
    kept = tuple(names[:IDS_LIMIT])

    def is_too_long() -> bool:
        cause = RoundCause(RoundKind.CHECKS, kept, head, again=_SUPERSEDED_LIMIT)
        return len(cause.identity) > ROUND_CAUSE_LIMIT

    while len(kept) > 1 and is_too_long():
        kept = kept[:-1]
    return kept


def _earlier(cause: RoundCause, record: RoundRecord) -> RoundEntry | None:
    """Return the newest round whose cause includes this cause completely; `None` if there is none.

    If a check is removed or passes later, the other checks are therefore not a new cause.
    """
    for entry in reversed(record.rounds):
        if entry.counted and covers(entry.kind, entry.before, entry.keys, cause):
            return entry
    return None


def _of_earlier(entry: RoundEntry) -> Stop:
    what, reason = _FAILURES[entry.kind], StopReason.NOTHING_PUSHED
    match entry.end:
        case RoundEnd.FAILED:
            sentence = f"The round for {what} failed."
        case RoundEnd.CANCELLED:
            sentence = f"The round for {what} was cancelled."
        case RoundEnd.NO_PROGRESS:
            sentence, reason = f"{_SAME_ERRORS}.", StopReason.NO_PROGRESS
        case _:
            sentence = f"A round for {what} has been done, and it changed nothing here."
    return Stop(reason, f"{sentence} {_AGAIN}", entry.kind)


def _behind_the_active(work: Work) -> Work:
    """Return the work with nothing to start, because another run of the change is active."""
    why = "A run of this change is active; the next one reads everything that came meanwhile."
    waiting = (*work.waiting, *(Waiting(cause.kind, None, why) for cause in work.due))
    # No check is run again either, because the active run may replace the head.
    return replace(work, due=(), reruns=(), waiting=waiting)
