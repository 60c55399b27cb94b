"""How people read the rounds of a change, on the change and on its issue."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from coding_agent_core.reporting.comment import State, comment, comment_with_change_rounds, summary_of
from coding_agent_core.task.model import Phase
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, RoundResult
from coding_agent_core.task.round_report import recorded, report_of_round, trigger_of
from coding_agent_core.task.usage import Cost, Usage

from tests.unit.core_reporting.making import ITEM, report
from tests.unit.core_task.test_stored_rounds import CHECKS, CONFLICT, NEXT, NOW, REVIEW

URL = "https://github.com/o/r/pull/8"
Ended = tuple[Any, RoundEnd, str | None]


def record_of(*rounds: Ended) -> RoundRecord:
    record = RoundRecord()
    for number, (cause, end, amount) in enumerate(rounds):
        own = replace(cause, again=number)
        told = report_of_round(RoundResult(own, NOW, end, NEXT))
        cost = None if amount is None else Cost.of(Decimal(amount), "USD")
        usage = Usage(requests=1, cost=cost)
        record = recorded(record, trigger_of(own, NOW)[1], told, RoundEnd.FAILED, usage=usage)
    return RoundRecord.model_validate_json(record.to_json())


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([], ""),
        ([(REVIEW, RoundEnd.SUPERSEDED, "0.1")], ""),
        ([(REVIEW, RoundEnd.PUSHED, None)], "1 round for a review"),
        (
            [(CHECKS, RoundEnd.PUSHED, "0.1"), (CHECKS, RoundEnd.FAILED, "0.2")],
            "2 rounds for failed checks; cost 0.30 USD",
        ),
        (
            [(REVIEW, RoundEnd.PUSHED, "1"), (CHECKS, RoundEnd.NO_PUSH, "0.5")],
            "2 rounds, 1 for failed checks, 1 for a review; cost 1.50 USD",
        ),
        (
            [
                (CONFLICT, RoundEnd.PUSHED, "1"),
                (REVIEW, RoundEnd.PUSHED, None),
                (REVIEW, RoundEnd.CANCELLED, "0.25"),
                (CHECKS, RoundEnd.SUPERSEDED, "0.25"),
            ],
            "3 rounds, 2 for reviews, 1 for a conflict; cost 1.50 USD",
        ),
    ],
)
def test_a_summary(rounds: list[Ended], expected: str) -> None:
    assert summary_of(record_of(*rounds)) == expected


def test_the_comment_on_the_issue_shows_the_rounds_like_the_one_on_the_change() -> None:
    done = State(uuid="u", phase=Phase.SUCCEEDED, branch="coding-agent/issue-7", change_url=URL)
    before = comment(report(done, summary=f"Pull request: {URL}\n\nDone."))
    shown = before
    for summary in ("1 round for a review", "1 round for a review", "2 rounds for reviews; cost 0.30 USD"):
        shown = comment_with_change_rounds(shown, ITEM, URL, summary)
        assert shown == comment(report(done, summary=f"Pull request: {URL}\n\nDone.", rounds=summary))
    record = record_of((REVIEW, RoundEnd.PUSHED, None))
    on_change = comment(report(done.model_copy(update={"rounds": record})))
    line = "Since the pull request was opened: 1 round for a review."
    assert line in on_change
    for other in (
        "no comment of ours",
        comment(report(done.model_copy(update={"change_url": None}))),
        comment(report(done.model_copy(update={"change_url": URL + "9"}))),
        comment(report(done.model_copy(update={"phase": Phase.RUNNING}))),
        comment(report(done.model_copy(update={"phase": Phase.CANCELLED}))),
    ):
        assert comment_with_change_rounds(other, ITEM, URL, "1 round") == other


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("https://github.com/o/old/pull/8", URL),
        ("https://gitlab.com/g/s/old/-/merge_requests/8", "https://gitlab.com/g/new/-/merge_requests/8"),
        ("http://gitea.example/o/old/pulls/8", "http://gitea.example/other/new/pulls/8"),
    ],
)
def test_the_comment_on_the_issue_of_a_renamed_repository_shows_later_rounds(before: str, now: str) -> None:
    done = State(uuid="u", phase=Phase.SUCCEEDED, branch="coding-agent/issue-7", change_url=before)
    shown = comment_with_change_rounds(comment(report(done)), ITEM, now, "2 rounds for reviews")
    assert shown == comment(report(done, rounds="2 rounds for reviews"))
    assert comment_with_change_rounds(shown, ITEM, f"{now}9", "3 rounds for reviews") == shown
