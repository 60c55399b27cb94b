"""The record of a change's rounds: its form in the comment, and how it is bounded."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from coding_agent_core.task.round_cause import IDS_LIMIT, Rerun, RoundCause, RoundKind, digest
from coding_agent_core.task.round_record import (
    RECORD_LIMIT,
    RERUNS_LIMIT,
    ROUNDS_LIMIT,
    SUPERSEDED_LIMIT,
    RerunEntry,
    RoundEnd,
    RoundRecord,
    RoundResult,
    answer_mark,
    entry_of,
    marked_answers,
    read_record,
    with_entry,
    with_reruns,
)
from coding_agent_core.task.round_report import recorded, report_of_round, trigger_of
from coding_agent_core.task.usage import Usage
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core_rounds.making import (
    HEAD,
    LATER,
    OTHER_BOT,
    after,
    asked_again,
    at,
    change,
    check,
    decide,
    ended,
    remark,
    sha,
    thread,
)

CAUSE = RoundCause(
    RoundKind.CHECKS, ("CI / test",), HEAD, number=2, limit=3, seen=at(5), errors=(digest("x"),)
)
RESULT = RoundResult(CAUSE, LATER, RoundEnd.PUSHED, sha("head 2"), patch=sha("p"), reverse=sha("r"))
RERUN = Rerun("900", digest("CI"), "CI", HEAD, "why")


@pytest.mark.parametrize(
    ("end", "head", "pushed"),
    [
        (RoundEnd.PUSHED, "head 2", True),
        (RoundEnd.PUSHED, "head 1", False),
        (RoundEnd.FAILED, "head 2", False),
        (RoundEnd.CANCELLED, "head 2", False),
    ],
)
def test_a_round_has_pushed_if_it_says_so_and_the_head_differs(
    end: RoundEnd, head: str, pushed: bool
) -> None:
    """The head of a round that failed can be a person's."""
    entry = entry_of(replace(RESULT, end=end, head_after=sha(head)))
    assert entry.pushed is pushed


def test_a_superseded_round_that_has_used_a_model_is_no_round_for_its_cause() -> None:
    snapshot = change(checks=(check(),))
    cause = decide(snapshot).due[0]
    result = RoundResult(cause, LATER, RoundEnd.SUPERSEDED, cause.head)
    record = RoundRecord(rounds=(entry_of(result, Usage(requests=1, input_tokens=5)),))
    assert [(one.ids, one.again) for one in decide(snapshot, record).due] == [(cause.ids, 1)]


def test_the_first_round_that_read_an_act_is_its_reader() -> None:
    entries = [
        entry_of(replace(RESULT, cause=replace(CAUSE, number=n, again=n, acts=acts)))
        for n, acts in enumerate([("c1",), ("c1", "c2"), ("c1", "c2")])
    ]
    assert RoundRecord(rounds=tuple(entries)).readers == {"c1": 0, "c2": 1}


def test_a_record_survives_the_comment() -> None:
    record = asked_again(after(RoundRecord(), RESULT), RERUN, LATER, refused=True)
    text = record.to_json()
    assert "\n" not in text
    assert read_record(text) == record
    assert read_record(RoundRecord().to_json()) == read_record("") == RoundRecord()


def test_a_record_is_short_and_has_no_foreign_text() -> None:
    text = after(RoundRecord(), replace(RESULT, cause=replace(CAUSE, ids=("--> @all",)))).to_json()
    assert len(text) < 500
    assert "@all" not in text


def test_a_round_is_recorded_once() -> None:
    once = after(RoundRecord(), RESULT)
    assert after(once, RESULT) == after(once, replace(RESULT, end=RoundEnd.FAILED)) == once


def test_the_fields_of_a_newer_release_are_left_out() -> None:
    known = after(RoundRecord(), RESULT)
    fields = json.loads(known.to_json())
    fields["new"] = fields["rounds"][0]["new"] = {"a": 1}
    assert read_record(json.dumps(fields)) == known


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must be a mapping"),
        ('{"rounds": [{}]}', "rounds.0.kind: is missing"),
        ('{"rounds": 7}', "rounds"),
        ('{"full": "perhaps"}', "full"),
        ("[" * 9_000, "is not valid JSON"),
        (" " * 50_000, "more than"),
        ('{"reruns": [{"head": "<b>", "check": "a", "run": "1", "at": "2026-01-01T00:00:00Z"}]}', "head"),
        ('{"rounds": [null]}', "rounds.0"),
    ],
)
def test_a_broken_record_is_empty_and_has_its_problem(text: str, problem: str) -> None:
    record = read_record(text)
    assert problem in record.problem
    assert record == RoundRecord(problem=record.problem)
    assert len(record.problem) <= 300


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert read_record(text).rounds == ()


def test_a_record_never_grows_beyond_what_it_can_read() -> None:
    record = RoundRecord()
    for number in range(3 * ROUNDS_LIMIT):
        ids = tuple(f"t{number * 100_000_000_000 + index}" for index in range(IDS_LIMIT))
        errors = tuple(digest(str(index)) for index in range(IDS_LIMIT))
        cause = RoundCause(RoundKind.REVIEW, ids, HEAD, errors=errors)
        record = with_entry(record, entry_of(replace(RESULT, cause=cause)))
        assert read_record(record.to_json()) == record
        assert record.full is (len(record.to_json()) > RECORD_LIMIT or record.full)
    assert record.full
    assert len(record.to_json()) <= 2 * RECORD_LIMIT


def test_a_superseded_round_answers_nothing_and_is_not_counted() -> None:
    cause = RoundCause(RoundKind.REVIEW, ("t1",), HEAD)
    record = ended(RoundRecord(), cause, RoundEnd.SUPERSEDED)
    assert (record.settled, record.since(0)) == (frozenset(), ())
    assert record.has(cause)


def test_a_cause_whose_round_did_something_else_can_come_again_under_another_name() -> None:
    """A round is created for red checks, and when it starts, a review comes first."""
    red = change(checks=(check(),))
    created = decide(red).due[0]
    both = replace(red, threads=(thread(remark(1)),))
    started = decide(both).due[0]
    record = after(RoundRecord(), RoundResult(started, LATER, RoundEnd.NO_PUSH, HEAD), created)
    again = decide(both, record).due[0]
    assert (again.ids, again.count) == (created.ids, "round 1 of 3")
    assert again.name_part != created.name_part


@pytest.mark.parametrize(("end", "entries"), [(RoundEnd.NO_PUSH, 1), (RoundEnd.SUPERSEDED, 0)])
def test_a_round_that_read_more_than_it_was_created_for(end: RoundEnd, entries: int) -> None:
    created = RoundCause(RoundKind.REVIEW, ("t1",), HEAD)
    started = replace(created, ids=("t1", "t2"))
    result = RoundResult(started, LATER, end, HEAD)
    record = after(RoundRecord(), result, created)
    assert (len(record.rounds), after(record, result, created)) == (entries, record)
    assert record.has(started)
    assert record.has(created) is (end is RoundEnd.SUPERSEDED)


def test_rounds_that_never_began_do_not_fill_the_record() -> None:
    """Somebody pushes again and again while a round waits for a free place."""
    record = RoundRecord()
    for number in range(3 * ROUNDS_LIMIT):
        cause = RoundCause(RoundKind.CHECKS, ("CI / test",), sha(f"head {number}"))
        record = read_record(ended(record, cause, RoundEnd.SUPERSEDED).to_json())
        assert record.has(cause)
    assert (record.rounds, record.full, len(record.superseded)) == ((), False, SUPERSEDED_LIMIT)
    assert len(record.to_json()) < 2_000


def test_a_superseded_round_that_used_a_model_is_recorded() -> None:
    _, trigger = trigger_of(RESULT.cause, LATER)
    for usage, count in ((Usage(), 0), (Usage(requests=1), 1), (Usage(input_tokens=5), 1)):
        report = report_of_round(replace(RESULT, end=RoundEnd.SUPERSEDED))
        for one in (report, None):
            record = recorded(RoundRecord(), trigger, one, RoundEnd.SUPERSEDED, usage=usage)
            assert len(record.rounds) == count
            assert record.has(RESULT.cause)


def test_reruns_of_the_oldest_head_make_room_whatever_their_times_are() -> None:
    def rerun(head: str, number: int, minute: int) -> RerunEntry:
        when = LATER + timedelta(minutes=minute)
        return RerunEntry(head=sha(head), check=digest("CI"), run=str(number), at=when)

    old = [rerun("old", number, 90 + number) for number in range(RERUNS_LIMIT)]
    new = [rerun("new", number, number) for number in range(3)]  # the forge's clock was set back
    record = with_reruns(RoundRecord(), [*old, *new])
    assert list(record.reruns) == [*old[3:], *new]
    # What is known of the older head can be added again and again.
    again = with_reruns(record, [*old, *old])
    assert [one for one in again.reruns if one.head == sha("new")] == new
    assert len(again.reruns) == RERUNS_LIMIT
    assert with_reruns(record, new) == record


def test_a_mark_names_what_a_reply_answers() -> None:
    reply = f"{answer_mark(['t2', 'c1'])}\nDone in 0123456."
    assert marked_answers([reply, "no mark", f"text first\n{answer_mark(['t3'])}"]) == {"c1", "t2"}


@given(st.sets(st.from_regex(r"[trc][0-9]{1,12}", fullmatch=True), max_size=IDS_LIMIT))
def test_marks_survive_whatever_they_name(ids: set[str]) -> None:
    assert marked_answers([answer_mark(ids)]) == ids


def test_answers_are_known_when_somebody_has_deleted_the_record() -> None:
    threads = change(comments=(remark(9, body="@coding-agent rename it"),))
    reply = remark(10, threads.own, answer_mark(decide(threads).due[0].ids))
    assert not decide(replace(threads, comments=(*threads.comments, reply))).due
    copied = remark(10, OTHER_BOT, answer_mark(["c9"]))
    assert decide(replace(threads, comments=(*threads.comments, copied))).due


def test_a_cause_that_the_decision_made_can_always_be_recorded() -> None:
    snapshot = change(
        checks=tuple(check(f"{'x' * 250}{number}", errors=f"{number}!") for number in range(60))
    )
    record = ended(RoundRecord(), decide(snapshot).due[0])
    assert read_record(record.to_json()) == record


def test_a_full_record_stays_full() -> None:
    full = RoundRecord(full=True)
    assert after(full, RESULT).full
    assert with_entry(full, entry_of(RESULT)).full
