"""The line of a commit's message that says what a round worked on."""

from __future__ import annotations

import pytest
from coding_agent_consumer.repository.commits import commit_message
from coding_agent_consumer.rounds.trailer import pushed_round, trailer_of
from coding_agent_core.task.round_cause import RoundCause, RoundKind
from coding_agent_core.task.round_record import RoundEnd, RoundResult, ended_round

from tests.unit.core_rounds.making import BASE, HEAD, at, sha

COMMIT = sha("commit")
NAME = "review-0123456789"
CAUSES = {
    "review": RoundCause(RoundKind.REVIEW, ("c2", "t1"), HEAD, again=1, seen=at(7), acts=("c2", "c3")),
    "conflict": RoundCause(RoundKind.CONFLICT, (BASE,), HEAD),
    "checks": RoundCause(RoundKind.CHECKS, ("lint [skip ci]", "Closes #7 @anna"), HEAD, errors=("0" * 12,)),
}


def line_of(cause: RoundCause) -> str:
    return trailer_of(NAME, ended_round(RoundResult(cause, at(9), RoundEnd.FAILED, HEAD)))


def message_of(summary: str, footer: str) -> str:
    return commit_message(summary, finished=True, item_title="Title", footer=footer, asked_by=None)


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_a_commit_says_what_the_round_worked_on(cause: RoundCause) -> None:
    message = message_of("Did it.\n\nAnd more.", f"For a#1: https://a/1\n\n{line_of(cause)}")
    expected = ended_round(RoundResult(cause, at(9), RoundEnd.PUSHED, COMMIT))
    assert pushed_round(NAME, COMMIT, message) == expected
    assert pushed_round("review-9876543210", COMMIT, message) is None


def test_a_commit_has_no_foreign_text() -> None:
    line = line_of(CAUSES["checks"])
    assert not any(text in line for text in ("skip", "Closes", "#7", "@", "anna"))


@pytest.mark.parametrize("end", ["\n", "\u2028", "\r", "\x0b"])
def test_a_summary_cannot_have_the_line(end: str) -> None:
    forged = line_of(CAUSES["review"])
    for summary in (forged, f"Did it.{end}{forged}", f"Did it.\n\nMore.{end}{forged}{end}"):
        assert pushed_round(NAME, COMMIT, message_of(summary, "For a#1: https://a/1")) is None


@pytest.mark.parametrize("told", ["", "[]", "3", '"text"', "{", "{}", "[" * 100_000, "9" * 5_000])
def test_a_line_that_a_person_wrote_wrongly_does_not_count(told: str) -> None:
    good = line_of(CAUSES["conflict"])
    assert pushed_round(NAME, COMMIT, f"Title\n\nCoding-Agent-Round: {NAME} {told}\n") is None
    assert pushed_round(NAME, COMMIT, f"Title\n\nCoding-Agent-Round: {NAME} {told}\n{good}\n") is not None


@pytest.mark.parametrize(
    ("good", "bad"), [('"t1"', '"t1 -->"'), (HEAD, "main"), ('"review"', '"dance"'), ('"c3"', '"@anna"')]
)
def test_only_ids_and_hashes_are_read(good: str, bad: str) -> None:
    line = line_of(CAUSES["review"])
    assert good in line
    assert pushed_round(NAME, COMMIT, line.replace(good, bad)) is None
