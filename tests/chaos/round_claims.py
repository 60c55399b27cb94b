"""What a history violates of the promises about rounds: the runs for reviews, failed checks and conflicts.

A round has worked unless it ended as superseded or without progress, or was cancelled because its change was
closed: then its cause can return. `lost` is judged at the end of the
history alone: an open change of the bot must have had a round for what is left to do on it, unless the rounds
of that kind have reached their limit since a person last acted.

Whether a later push has changed the lines of a remark is not known here. So no round is demanded for a remark
in a thread if anybody pushed after it except a round, and the bot had not replied in the thread before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations

from tests.chaos.causes import ANSWERS, REMARKS, remark_id
from tests.chaos.history import Act, History, ItemKey, Mergeability, Run
from tests.chaos.items import is_within
from tests.chaos.promises import CLOSING, Promises, RoundPromises, Violation, command_of, delayed

_SECOND = timedelta(seconds=1)
_NO_WORK = ("superseded", "no progress")
_FINISHED = ("pushed", "no push")
_FAILURES = ("failure", "timed_out", "error")
_RUNNING = ("running", "queued")


@dataclass(frozen=True)
class _Change:
    """A change of the bot, and its part of the history.

    Attributes:
        pushes: to its branch.
        checks: of all commits that were its head.
        runs: all of them, in the order in which they were created.
        other_runs: of the issue that the change is for.
    """

    key: ItemKey
    opened: datetime
    acts: Sequence[Act]
    pushes: Sequence[Act]
    checks: Sequence[Act]
    mergeability: Sequence[Mergeability]
    runs: Sequence[Run]
    other_runs: Sequence[Run]
    promises: Promises
    rules: RoundPromises
    end: datetime

    @property
    def rounds(self) -> list[Run]:
        return [run for run in self.runs if run.round is not None]

    @property
    def worked(self) -> list[Run]:
        return [run for run in self.rounds if _has_worked(run) and not self.superseded(run)]

    def superseded(self, run: Run) -> bool:
        """Whether a round does not count, because a person did its work or closed the change meanwhile."""
        # A round that stops because its change was closed says `cancelled`, as after any other withdrawal.
        if run.round is not None and run.round.end not in ("", "cancelled"):
            return run.round.end == "superseded"
        until = run.ended or self.end
        closings = [act.at for act in self.acts if act.event in CLOSING]
        return run.phase == "Cancelled" and any(run.created <= at <= until for at in closings)

    @property
    def head(self) -> str:
        return self.pushes[-1].commit if self.pushes else ""

    def closed(self, at: datetime) -> Act | None:
        """What had closed the change by then; `None`: it was open."""
        states = [act for act in self.acts if act.event in (*CLOSING, "reopened") and act.at <= at]
        return states[-1] if states and states[-1].event in CLOSING else None

    def by_members(self, *, calls_only: bool) -> list[datetime]:
        """When people with write access did something that starts a count anew."""
        found = [
            act.at
            for act in self.acts
            if act.actor in self.promises.members
            and (self._calls(act) or (not calls_only and act.event in REMARKS))
        ]
        return found + [push.at for push in self.pushes if push.actor in self.promises.members]

    def _calls(self, act: Act) -> bool:
        if act.event == "labeled":
            return act.label in self.promises.triggers
        asks = self.mentions(act) or command_of(act) in ("/run", "/retry")
        return act.event == "reopened" or (act.event in REMARKS and asks)

    def mentions(self, act: Act) -> bool:
        return f"@{self.promises.bot}" in act.body


def rounds_violations(history: History, promises: Promises) -> Iterator[Violation]:
    """What does not hold of the promises about rounds; without any, a round needs its cause all the same."""
    for change in _changes(history, promises, promises.rounds or RoundPromises()):
        yield from _reactions(change)
        if promises.rounds is None:
            continue
        yield from _doubled(change)
        yield from _bounds(change)
        yield from _answers(change)
        yield from _after_the_end(change, history)
        yield from _lost(change, history)


def _changes(history: History, promises: Promises, rules: RoundPromises) -> Iterator[_Change]:
    for opened in history.acts:
        key = opened.item
        if opened.event != "opened" or opened.actor != promises.bot or key is None or key.kind != "change":
            continue
        pushes = [
            act
            for act in history.acts
            if act.event == "pushed" and act.repository == key[:2] and act.branch == opened.branch
        ]
        heads = {push.commit for push in pushes}
        number = re.match(re.escape(promises.branch).replace(r"\{number\}", r"(\d+)"), opened.branch)
        issue = key._replace(kind="issue", number=int(number[1])) if number else None
        yield _Change(
            key,
            opened.at,
            [act for act in history.acts if act.item == key],
            pushes,
            [
                act
                for act in history.acts
                if act.event in ("check", "rerun") and act.commit in heads and act.check != promises.status
            ],
            [one for one in history.mergeability if one.item == key],
            sorted(history.runs.get(key, ()), key=lambda run: run.created),
            history.runs.get(issue, ()) if issue else (),
            promises,
            rules,
            history.end,
        )


def _has_worked(run: Run) -> bool:
    if run.round is not None and run.round.end:
        return run.round.end not in _NO_WORK
    return bool(run.pods) or any(phase == "Running" for _, phase in run.phases)


def _doubled(change: _Change) -> Iterator[Violation]:
    """The same cause has at most one round that worked."""
    for before, after in combinations(change.worked, 2):
        one, two = before.round, after.round
        assert one is not None
        assert two is not None
        common = one.ids & two.ids
        same_head = one.kind == "review" or one.head == two.head
        either = one.kind != "review" and not (one.ids and two.ids)
        if one.kind == two.kind and same_head and (common or either):
            what = " ".join(sorted(common)) or one.head[:12]
            text = f"runs {before.number} and {after.number} worked on the same {one.kind}: {what}"
            yield Violation("doubled", change.key, after.created, text)


def _bounds(change: _Change) -> Iterator[Violation]:
    """There are no more rounds of a kind, nor re-runs of a check, than allowed until a person acts."""
    for kind in ("review", "checks", "conflict"):
        limit = change.rules.limit(kind)
        resets = change.by_members(calls_only=kind == "review")
        rounds = [run for run in change.worked if run.round and run.round.kind == kind]
        for first, last in zip(rounds, rounds[limit:], strict=False):
            until = last.ended or change.end
            if not any(first.created - _SECOND <= at <= until for at in resets):
                text = f"run {last.number} is one more than the {limit} rounds that {kind} may have"
                yield Violation("bound", change.key, last.created, text)
    asked = [act for act in change.checks if act.event == "rerun" and act.actor == change.promises.bot]
    for (commit, check), count in Counter((act.commit, act.check) for act in asked).items():
        if count > change.rules.reruns:
            at = max(act.at for act in asked if (act.commit, act.check) == (commit, check))
            text = f"{check} of {commit[:12]} was run again {count} times, {change.rules.reruns} are allowed"
            yield Violation("bound", change.key, at, text)


def _reactions(change: _Change) -> Iterator[Violation]:
    """A round answers people with write access, checks that failed, and conflicts; nothing else."""
    said = {remark_id(act): act for act in change.acts if act.event in REMARKS}
    for run in change.rounds:
        cause = run.round
        assert cause is not None
        text = ""
        if cause.kind == "review":
            read = {said[one] for one in cause.ids & said.keys()}
            others = {act.actor for act in read} - change.promises.members
            text = f"answers {', '.join(sorted(others))}" if others else ""
            unknown = sorted(cause.ids - said.keys())
            later = sorted(remark_id(act) for act in read if act.at > (run.ended or change.end))
            if unknown or later:
                text = f"answers {' '.join(unknown + later)}, which nobody had written"
        elif cause.kind == "checks":
            failed = any(act.commit == cause.head and act.state in _FAILURES for act in change.checks)
            text = "" if failed else f"fixes checks, and none had failed on {cause.head[:12]}"
        elif not any(one.head == cause.head and not one.merges for one in change.mergeability):
            text = f"resolves a conflict that {cause.head[:12]} never had"
        if text:
            yield Violation("reaction", change.key, run.created, f"run {run.number} {text}")


def _answers(change: _Change) -> Iterator[Violation]:
    """Each remark that a finished round has read has one reply."""
    replies: Counter[str] = Counter()
    for act in change.acts:
        found = ANSWERS.match(act.body.lstrip())
        if act.actor == change.promises.bot and act.event in ("review_commented", "commented") and found:
            ids = found[1].split()
            replies.update(ids)
            twice = sorted(one for one in ids if replies[one] > 1)
            if twice:
                text = f"a second reply to {' '.join(twice)}"
                yield Violation("answers", change.key, act.at, text)
    for run in change.rounds:
        cause = run.round
        if cause is None or cause.kind != "review" or cause.end not in _FINISHED or run.ended is None:
            continue
        missing = sorted(one for one in cause.ids if not replies[one])
        if missing and change.closed(run.ended) is None:
            text = f"run {run.number} ended without a reply to {' '.join(missing)}"
            yield Violation("answers", change.key, run.ended, text)


def _after_the_end(change: _Change, history: History) -> Iterator[Violation]:
    """On a change that is merged or closed, no round is created, and none pushes."""

    def late(at: datetime) -> Act | None:
        closed = change.closed(at)
        if closed is None or at <= delayed(closed.at, change.promises.stop, history, change.promises):
            return None
        return closed

    for run in change.rounds:
        closed = late(run.created)
        if closed is not None:
            text = f"run {run.number} was created after the change was {closed.event}"
            yield Violation("round after the end", change.key, run.created, text)
    for push in change.pushes:
        closed = late(push.at)
        of_round = is_within(push, change.rounds) and not is_within(push, change.other_runs)
        if push.actor == change.promises.bot and closed is not None and of_round:
            text = f"{(push.at - closed.at).total_seconds():.1f} s after {closed.event}"
            yield Violation("pushed late", change.key, push.at, text)


_Left = tuple[datetime, str] | None
"""The work that is left at the end, and the time since which it was due."""


def _lost(change: _Change, history: History) -> Iterator[Violation]:
    """Nothing is left to do on an open change that should have had a round."""
    if change.closed(history.end) is not None or any(run.ended is None for run in change.runs):
        return
    free = [run.ended for run in change.runs if run.ended is not None]
    free += [act.at for act in change.acts if act.event == "reopened"]
    seconds = change.rules.quiet + change.rules.start
    looks: list[Callable[[_Change], _Left]] = [_review_left, _checks_left, _conflict_left]
    for look in looks:
        left = look(change)
        if left is None:
            continue
        since, text = left
        due = delayed(max([since, *free]), seconds, history, change.promises)
        if due <= history.end:
            yield Violation("lost", change.key, since, text)


def _is_exhausted(change: _Change, kind: str) -> bool:
    """Whether all rounds of a kind may have been used up since a person last acted."""
    since = max(change.by_members(calls_only=kind == "review"), default=change.opened)
    done = [
        run
        for run in change.worked
        if run.round and run.round.kind == kind and (run.ended or change.end) > since
    ]
    return len(done) >= change.rules.limit(kind)


def _handled(change: _Change, kind: str) -> Iterator[Run]:
    for run in change.rounds:
        if run.round is not None and run.round.kind == kind and not change.superseded(run):
            yield run


def _review_left(change: _Change) -> _Left:
    read = {one for run in _handled(change, "review") if run.round for one in run.round.ids}
    asked = [act for act in change.acts if act.actor in change.promises.members and _asks(change, act)]
    left = [act for act in asked if remark_id(act) not in read]
    if not left or _is_exhausted(change, "review"):
        return None
    return asked[-1].at, f"no round has read {' '.join(map(remark_id, left))}"


def _asks(change: _Change, act: Act) -> bool:
    """Whether a person's remark still needs a round at the end."""
    if act.event == "review_commented":
        return _stands(change, act)
    if act.event == "commented":
        return change.mentions(act)
    if act.event != "reviewed" or not act.body.strip():
        return False
    states = [one.state for one in change.acts if one.event == "reviewed" and one.actor == act.actor]
    later = states[_position(change, act) + 1 :]
    # On GitLab only the text of a reviewer who requests changes is more than a comment.
    asking = ("CHANGES_REQUESTED",) if act.comment else ("CHANGES_REQUESTED", "COMMENTED")
    return act.state in asking and "APPROVED" not in later


def _position(change: _Change, act: Act) -> int:
    """Which of its author's reviews this is, from 0."""
    reviews = [one for one in change.acts if one.event == "reviewed" and one.actor == act.actor]
    return reviews.index(act)


def _stands(change: _Change, act: Act) -> bool:
    """Whether a remark in a thread is neither resolved nor, as far as one can tell, outdated by a person."""
    thread = [one for one in change.acts if one.thread == act.thread]
    states = [one.event for one in thread if one.event in ("resolved", "unresolved")]
    if states and states[-1] == "resolved":
        return False
    remarks = [one for one in thread if one.event == "review_commented"]
    if any(one.actor == change.promises.bot and one.at < act.at for one in remarks):
        return True
    return not any(push.at > remarks[0].at and push.actor != change.promises.bot for push in change.pushes)


def _checks_left(change: _Change) -> _Left:
    head = change.head
    last, passed = dict[str, Act](), set[str]()
    for act in change.checks:
        if act.event == "check" and act.commit == head:
            last[act.check] = act
            passed |= {act.check} if act.state == "success" else set()
    failed = {name for name, act in last.items() if act.state in _FAILURES} - passed
    running = any(act.state in _RUNNING for act in last.values())
    if not failed or running or not _merges(change):
        return None
    if any(run.round and run.round.head == head for run in _handled(change, "checks")):
        return None
    if _is_exhausted(change, "checks") or _no_progress(change, failed):
        return None
    at = max(act.at for act in last.values())
    return at, f"no round has fixed {', '.join(sorted(failed))} of {head[:12]}"


def _no_progress(change: _Change, failed: set[str]) -> bool:
    """Whether checks fail with all the errors with which they failed before the last round for checks."""
    rounds = [run.round for run in _handled(change, "checks") if run.round and run.round.end == "pushed"]

    def errors(commit: str) -> set[tuple[str, str]]:
        return {
            (act.check, act.body)
            for act in change.checks
            if act.event == "check" and act.commit == commit and act.state in _FAILURES
        }

    now = {one for one in errors(change.head) if one[0] in failed}
    return bool(rounds) and errors(rounds[-1].head) <= now


def _merges(change: _Change) -> bool:
    of_head = [one for one in change.mergeability if one.head == change.head]
    return not of_head or of_head[-1].merges


def _conflict_left(change: _Change) -> _Left:
    of_head = [one for one in change.mergeability if one.head == change.head]
    if _merges(change) or _is_exhausted(change, "conflict"):
        return None
    last = of_head[-1]
    for run in _handled(change, "conflict"):
        if run.round and run.round.head == last.head and (not run.round.ids or last.base in run.round.ids):
            return None
    return last.at, f"no round has merged {last.base[:12]} into {last.head[:12]}"
