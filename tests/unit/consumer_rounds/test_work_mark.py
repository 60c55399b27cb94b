"""The mark of a commit of finished work: what it tells, and whom it is believed."""

from __future__ import annotations

from functools import partial

import pytest
from coding_agent_consumer.repository.commits import commit_message
from coding_agent_consumer.repository.work_mark import PushedCommit, WorkMark
from coding_agent_consumer.rounds.trailer import pushed_round, told_of
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_core.task.model import Item
from coding_agent_core.task.round_cause import RoundCause, RoundKind
from coding_agent_core.task.round_record import EndedRound, RoundEnd, RoundResult, ended_round
from coding_agent_forges.rest.hidden_line import HiddenLines
from pydantic import SecretStr

from tests.unit.core_rounds.making import BASE, HEAD, at, change, sha

COMMIT, TREE = sha("commit"), sha("tree")
NAME, TASK = "review-0123456789", "task-0123456789abcdef"
ITEM = change().item
CAUSES = {
    "review": RoundCause(RoundKind.REVIEW, ("c2", "t1"), HEAD, again=1, seen=at(7), acts=("c2", "c3")),
    "conflict": RoundCause(RoundKind.CONFLICT, (BASE,), HEAD),
    "checks": RoundCause(RoundKind.CHECKS, ("lint [skip ci]", "Closes #7 @anna"), HEAD, errors=("0" * 12,)),
}


def mark(name: str = NAME, key: str = "k" * 32, item: Item = ITEM) -> WorkMark:
    lines = HiddenLines(Secrets(SecretSettings(values=(SecretStr(key),))))
    return WorkMark(name, partial(lines.mac, item), partial(lines.proves, item))


def line_of(cause: RoundCause, key: str = "") -> str:
    told = told_of(ended_round(RoundResult(cause, at(9), RoundEnd.FAILED, HEAD)))
    return mark(key=key).line(TREE, told)


def message_of(summary: str, footer: str) -> str:
    return commit_message(summary, finished=True, item_title="Title", footer=footer, asked_by=None)


def read(message: str, name: str = NAME, key: str = "") -> list[EndedRound | None]:
    found = mark(name, key).told_in(PushedCommit(COMMIT, TREE, message))
    return [pushed_round(COMMIT, told) for told, _ in found]


@pytest.mark.parametrize("key", ["", "k" * 32])
@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_a_commit_says_what_the_round_worked_on(cause: RoundCause, key: str) -> None:
    message = message_of("Did it.\n\nAnd more.", f"For a#1: https://a/1\n\n{line_of(cause, key)}")
    expected = ended_round(RoundResult(cause, at(9), RoundEnd.PUSHED, COMMIT))
    assert read(message, key=key) == [expected]
    assert read(message, "review-9876543210", key) == []


def test_a_commit_has_no_foreign_text() -> None:
    line = line_of(CAUSES["checks"])
    assert not any(text in line for text in ("skip", "Closes", "#7", "@", "anna"))


@pytest.mark.parametrize("end", ["\n", "\u2028", "\r", "\x0b"])
def test_a_summary_cannot_have_the_line(end: str) -> None:
    forged = line_of(CAUSES["review"])
    for summary in (forged, f"Did it.{end}{forged}", f"Did it.\n\nMore.{end}{forged}{end}"):
        assert not any(read(message_of(summary, "For a#1: https://a/1")))


@pytest.mark.parametrize("told", ["", "[]", "3", '"text"', "{", "{}", "[" * 100_000, "9" * 5_000])
def test_a_line_that_a_person_wrote_wrongly_does_not_count(told: str) -> None:
    good = line_of(CAUSES["conflict"])
    assert read(f"Title\n\nCoding-Agent-Work: {NAME} {told}\n") == [None]
    first, second = read(f"Title\n\nCoding-Agent-Work: {NAME} {told}\n{good}\n")
    assert (first, second is None) == (None, False)


@pytest.mark.parametrize(
    ("good", "bad"), [('"t1"', '"t1 -->"'), (HEAD, "main"), ('"review"', '"dance"'), ('"c3"', '"@anna"')]
)
def test_only_ids_and_hashes_are_read(good: str, bad: str) -> None:
    line = line_of(CAUSES["review"])
    assert good in line
    assert read(line.replace(good, bad)) == [None]


OTHER_ITEM = ITEM.model_copy(update={"number": 9})


@pytest.mark.parametrize(
    ("written", "tree", "proven"),
    [
        pytest.param(mark(TASK).line(TREE), TREE, [True], id="ours"),
        pytest.param(mark(TASK).line(TREE), sha("other"), [], id="copied to a commit with other files"),
        pytest.param(mark(TASK, "f" * 32).line(TREE), TREE, [], id="signed with another key"),
        pytest.param(f"Coding-Agent-Work: {TASK}", TREE, [], id="not signed"),
        pytest.param(mark(TASK, item=OTHER_ITEM).line(TREE), TREE, [], id="of another item"),
        pytest.param(mark("task-2").line(TREE), TREE, [], id="of another run"),
        pytest.param(mark("task-2").line(TREE).replace("task-2", TASK), TREE, [], id="renamed"),
        pytest.param(f"Coding-Agent-Work: {TASK} sha256=\u00e4", TREE, [], id="no signature"),
    ],
)
def test_only_a_signature_of_the_same_files_proves_that_a_line_is_ours(
    written: str, tree: str, proven: list[bool]
) -> None:
    commit = PushedCommit(COMMIT, tree, message_of("Did it.", written))
    assert [ours for _, ours in mark(TASK).told_in(commit)] == proven


def test_nothing_is_proven_without_a_key() -> None:
    assert mark(TASK, "").line(TREE) == ""
    commit = PushedCommit(COMMIT, TREE, mark(TASK).line(TREE))
    assert [ours for _, ours in mark(TASK, "").told_in(commit)] == [None]
