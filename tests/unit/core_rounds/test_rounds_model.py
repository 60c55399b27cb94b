"""Whatever happens in whatever order, the claims of rounds hold.

People, bots and the forge act on a change; rounds start from what `open_work` says and end in any way. Each
cause starts at most one round, bounds are exact, nothing starts after a merge, and nothing of ours starts
anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from coding_agent_core.forge.changes import (
    Actor,
    ChangeEvent,
    ChangeEventKind,
    ChangeSnapshot,
    ChangeState,
    CheckConclusion,
    CheckResult,
    Mergeability,
    Remark,
    ReviewThread,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.task.round_cause import RoundCause, RoundKind, Work
from coding_agent_core.task.round_record import (
    RoundEnd,
    RoundRecord,
    RoundResult,
    answer_mark,
    read_record,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.core_rounds.making import (
    ANNA,
    BASE,
    HEAD,
    NOON,
    OLAF,
    OTHER_BOT,
    OURS,
    POLICY,
    REVIEW_BOT,
    STRANGER,
    after,
    asked_again,
    change,
    check,
    decide,
    sha,
)

ACTORS = st.sampled_from([ANNA, OLAF, OURS, REVIEW_BOT, OTHER_BOT, STRANGER])
OTHERS = st.sampled_from([ANNA, OLAF, REVIEW_BOT, OTHER_BOT, STRANGER])
PEOPLE = (ANNA, OLAF)
BODIES = st.sampled_from(["Rename it.", "@coding-agent go on", "> @coding-agent go on", "", "/retry"])
NAMES = st.sampled_from(["lint", "test", "build"])
POLICY_OF_TEST = replace(POLICY, check_rounds=2, review_rounds=2, conflict_rounds=1)
PATCHES = st.sampled_from([sha("patch a"), sha("patch b")])


class Rounds(RuleBasedStateMachine):
    """A forge with one change, and a program that runs rounds on it."""

    @initialize()
    def open(self) -> None:
        self.now = NOON
        self.number = self.steps = 0
        self.threads: list[ReviewThread] = []
        self.comments: list[Remark] = []
        self.reviews: list[SubmittedReview] = []
        self.events: list[ChangeEvent] = []
        self.checks: dict[str, CheckResult] = {}
        self.base_checks: tuple[CheckResult, ...] = ()
        self.head, self.base = HEAD, BASE
        self.mergeability = Mergeability.MERGES
        self.state = ChangeState.OPEN
        self.stored = ""
        self.created: RoundCause | None = None
        self.running: tuple[RoundCause, str] | None = None
        self.identities = Counter[str]()
        self.names = Counter[str]()
        self.done = Counter[RoundKind]()
        """The rounds that count, of each kind, since a person's act started the count anew."""
        self.of_this_count: set[RoundKind] = set()
        """The kind of the round that runs, until a person's act starts its count anew."""
        self.read: set[str] = set()

    def _next(self, seconds: int = 1) -> int:
        self.now += timedelta(seconds=seconds)
        self.number += 1
        return self.number

    def _snapshot(self) -> ChangeSnapshot:
        return change(
            threads=tuple(self.threads),
            comments=tuple(self.comments),
            reviews=tuple(self.reviews),
            events=tuple(self.events),
            checks=tuple(self.checks.values()),
            base_checks=self.base_checks,
            head_commit=self.head,
            base_commit=self.base,
            mergeability=self.mergeability,
            state=self.state,
            updated_at=self.now,
        )

    @property
    def record(self) -> RoundRecord:
        return read_record(self.stored)

    def _decide(self) -> Work:
        return decide(self._snapshot(), self.record, policy=POLICY_OF_TEST, now=self.now)

    def _acted(self, actor: Actor, *, call: bool) -> None:
        """A person's act starts the counts anew; a round that runs is not of the new count."""
        if actor in PEOPLE:
            for kind in RoundKind:
                if call or kind is not RoundKind.REVIEW:
                    self.done[kind] = 0
                    self.of_this_count.discard(kind)

    @rule(author=ACTORS, body=BODIES, outdated=st.booleans())
    def somebody_comments_on_a_line(self, author: Actor, body: str, outdated: bool) -> None:
        number = self._next()
        remark = Remark(str(number), author, self.now, body, self.head)
        self.threads.append(ReviewThread(f"PRRT_{number}", "app.py", 1, False, outdated, (remark,)))
        self._acted(author, call=body in ("@coding-agent go on", "/retry"))

    @precondition(lambda self: self.threads)
    @rule(author=ACTORS, body=BODIES, which=st.integers(0, 99))
    def somebody_replies(self, author: Actor, body: str, which: int) -> None:
        number, which = self._next(), which % len(self.threads)
        remark = Remark(str(number), author, self.now, body, self.head)
        thread = self.threads[which]
        self.threads[which] = replace(thread, remarks=(*thread.remarks, remark))
        self._acted(author, call=body in ("@coding-agent go on", "/retry"))

    @precondition(lambda self: self.threads)
    @rule(which=st.integers(0, 99), resolved=st.booleans())
    def somebody_resolves(self, which: int, resolved: bool) -> None:
        which %= len(self.threads)
        self.threads[which] = replace(self.threads[which], resolved=resolved)

    @rule(author=ACTORS, body=BODIES)
    def somebody_comments(self, author: Actor, body: str) -> None:
        self.comments.append(Remark(str(self._next()), author, self.now, body))
        self._acted(author, call=body in ("@coding-agent go on", "/retry"))

    @rule(author=ACTORS, body=BODIES, verdict=st.sampled_from(ReviewVerdict))
    def somebody_reviews(self, author: Actor, body: str, verdict: ReviewVerdict) -> None:
        self.reviews.append(SubmittedReview(str(self._next()), author, verdict, body, self.now, self.head))
        self._acted(author, call=body == "@coding-agent go on")

    @rule(actor=ACTORS, kind=st.sampled_from([ChangeEventKind.APPROVED, ChangeEventKind.CHANGES_REQUESTED]))
    def somebody_reviews_without_a_word_on_gitlab(self, actor: Actor, kind: ChangeEventKind) -> None:
        self._next()
        self.events.append(ChangeEvent(kind, actor, self.now))
        self._acted(actor, call=False)

    @rule(actor=OTHERS)
    def somebody_pushes(self, actor: Actor) -> None:
        self.head = sha(f"pushed {self._next()}")
        self.checks = {}
        self.events.append(ChangeEvent(ChangeEventKind.PUSHED, actor, self.now, self.head))
        self._acted(actor, call=True)

    @rule(actor=ACTORS)
    def somebody_applies_the_label(self, actor: Actor) -> None:
        self._next()
        self.events.append(ChangeEvent(ChangeEventKind.LABELED, actor, self.now, label="coding agent"))
        self._acted(actor, call=True)

    @rule(
        name=NAMES,
        conclusion=st.sampled_from([None, *CheckConclusion]),
        errors=st.sampled_from(["", "a", "b"]),
    )
    def a_check_reports(self, name: str, conclusion: CheckConclusion | None, errors: str) -> None:
        number = self._next()
        before = self.checks.get(name)
        earlier = (*before.earlier, before.conclusion) if before and before.conclusion else ()
        seconds = (self.now - NOON).total_seconds()
        self.checks[name] = check(
            name,
            conclusion,
            run=str(number),
            errors=errors,
            began=seconds,
            ended=seconds,
            earlier=tuple(one for one in earlier if one),
        )

    @rule(name=NAMES, errors=st.sampled_from(["a", "b"]))
    def all_checks_end_and_one_is_red(self, name: str, errors: str) -> None:
        self.checks = {name: check(name, run=str(self._next()), errors=errors)}
        self.mergeability = Mergeability.MERGES
        self._next(100)
        self._create_if_due()

    @rule(red=st.booleans())
    def the_base_moves(self, red: bool) -> None:
        self.base = sha(f"base {self._next()}")
        self.base_checks = (check("lint", CheckConclusion.FAILURE),) if red else ()

    @rule(mergeability=st.sampled_from(Mergeability))
    def the_forge_computes_the_mergeability(self, mergeability: Mergeability) -> None:
        self.mergeability = mergeability

    @rule(seconds=st.sampled_from([0, 5, 40, 100, 9_000]))
    def time_passes(self, seconds: int) -> None:
        self._next(seconds)
        self._create_if_due()

    @rule(seconds=st.sampled_from([-5_000, 5_000]))
    def the_forges_clock_is_set(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(seconds=st.sampled_from([0, 100]))
    def a_check_runs_again(self, seconds: int) -> None:
        self._next(seconds)
        for rerun in self._decide().reruns:
            record = asked_again(self.record, rerun, self.now)
            assert len(record.reruns_of(rerun.head, rerun.check)) <= 2
            self.stored = record.to_json()

    @rule(state=st.sampled_from([*[ChangeState.OPEN] * 9, ChangeState.MERGED]))
    def somebody_merges_or_not(self, state: ChangeState) -> None:
        """A merge is rare, because nothing else happens after it."""
        self.state = state

    def _create_if_due(self) -> None:
        """A look creates a round. Its name must be free, or the API server refuses it."""
        work = self._decide()
        if self.created is None and work.due:
            self.created = work.due[0]
            self.names[self.created.name_part] += 1
            assert self.names[self.created.name_part] == 1, f"taken: {self.created.identity}"

    @rule(
        seconds=st.sampled_from([1, 100]),
        end=st.sampled_from([RoundEnd.PUSHED, *RoundEnd]),
        patch=PATCHES,
        reverse=PATCHES,
        replies=st.booleans(),
    )
    def the_program_goes_on(
        self, seconds: int, end: RoundEnd, patch: str, reverse: str, replies: bool
    ) -> None:
        self._next(seconds)
        self._go_on(end, patch, reverse, replies=replies)

    @invariant()
    def the_program_never_rests(self) -> None:
        """Hypothesis leaves out rules at random, but rounds always go on."""
        self.steps += 1
        if self.steps % 3 == 0:
            ends = [RoundEnd.PUSHED, RoundEnd.PUSHED, RoundEnd.NO_PUSH, RoundEnd.SUPERSEDED, RoundEnd.FAILED]
            self._next(100)
            patches = (sha(f"patch {self.steps}"), sha("patch a"))
            self._go_on(ends[self.steps % 5], *patches, replies=self.steps % 2 == 0)

    def _go_on(self, end: RoundEnd, patch: str, reverse: str, *, replies: bool) -> None:
        if self.running is not None:
            self._end(end, patch, reverse, replies=replies)
        elif self.created is not None:
            self._start()
        else:
            self._create_if_due()

    def _start(self) -> None:
        """The round decides anew, because anything can have happened since it was created."""
        assert self.created is not None
        work = self._decide()
        if not work.due:
            gone = RoundResult(self.created, self.now, RoundEnd.SUPERSEDED, self.created.head)
            self.stored = after(self.record, gone).to_json()
            self.created = None
            return
        cause = work.due[0]
        assert self.state is ChangeState.OPEN
        self.identities[cause.identity] += 1
        assert self.identities[cause.identity] == 1, f"twice: {cause.identity}"
        assert cause.head == self.head
        assert cause.number == self.done[cause.kind] + 1
        assert cause.number <= cause.limit == POLICY_OF_TEST.limit(cause.kind)
        if cause.kind is RoundKind.REVIEW:
            self._is_of_others(cause)
            assert not self.read & set(cause.ids), "a remark was read before"
        self.running = (cause, self.head)
        self.of_this_count = {cause.kind}

    def _is_of_others(self, cause: RoundCause) -> None:
        authors = {f"t{one.id}": one.author for thread in self.threads for one in thread.remarks}
        authors |= {f"c{one.id}": one.author for one in self.comments}
        authors |= {f"r{one.id}": one.author for one in self.reviews}
        assert {authors[one] for one in cause.ids} <= {ANNA, OLAF, REVIEW_BOT}

    def _end(self, end: RoundEnd, patch: str, reverse: str, *, replies: bool) -> None:
        assert self.running is not None
        (cause, head), self.running = self.running, None
        number = self._next()
        if head != self.head:
            end = RoundEnd.SUPERSEDED
        elif end is RoundEnd.PUSHED:
            self.head, self.checks = sha(f"round {number}"), {}
            # The commit of our push can name the person for whom it was made.
            self.events.append(ChangeEvent(ChangeEventKind.PUSHED, ANNA, self.now, self.head))
        after_it = self.head if end is RoundEnd.PUSHED else head
        result = RoundResult(cause, self.now, end, after_it)
        created, self.created = self.created, None
        if end is RoundEnd.PUSHED:
            result = replace(result, patch=patch, reverse=reverse)
        record = after(self.record, result, created)
        assert after(record, result, created) == record
        self.stored = record.to_json()
        if end is not RoundEnd.SUPERSEDED:
            self.done[cause.kind] += cause.kind in self.of_this_count
            self.read |= set(cause.ids if cause.kind is RoundKind.REVIEW else ())
        if replies:
            mark = answer_mark(cause.ids if end is not RoundEnd.SUPERSEDED else ())
            self.comments.append(Remark(str(self._next()), OURS, self.now, f"{mark}\n@coding-agent did it."))

    @invariant()
    def nothing_of_a_merged_change_is_due(self) -> None:
        if self.state is not ChangeState.OPEN:
            work = self._decide()
            assert (work.due, work.reruns) == ((), ())

    @invariant()
    def the_record_is_readable_and_bounded(self) -> None:
        assert self.record.problem == ""
        assert len(self.stored) <= 40_000


Rounds.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestRounds = Rounds.TestCase
