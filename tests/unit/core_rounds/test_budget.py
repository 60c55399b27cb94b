"""The budget of a change: what all its rounds spent, in which unit, and whose act makes it whole again."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.rounds.decide import open_work
from coding_agent_core.task.round_cause import RoundCause, RoundKind, StopReason
from coding_agent_core.task.round_record import RoundEnd, RoundRecord, RoundResult, entry_of, read_record
from coding_agent_core.task.round_report import recorded, report_of_round, trigger_of
from coding_agent_core.task.usage import Allowance, Cost, Usage

from tests.unit.core_rounds.making import (
    ANNA,
    BASE,
    LATER,
    NOON,
    OLAF,
    POLICY,
    change,
    check,
    may_write,
    remark,
    review,
)

DOLLARS, TOKENS = Allowance(amount=Decimal(5), currency="USD"), Allowance(tokens=1000)
RED = change(checks=(check(),))
CAUSE = RoundCause(RoundKind.REVIEW, ("r1",), BASE, seen=NOON)


def used(tokens: int, dollars: str | None = None) -> Usage:
    cost = None if dollars is None else Cost(amount=dollars, currency="USD")
    return Usage(requests=1, input_tokens=tokens - 1, output_tokens=1, cost=cost)


def record(*usages: Usage, end: RoundEnd = RoundEnd.NO_PUSH) -> RoundRecord:
    """The record of earlier rounds for reviews, as it is read from the comment."""
    entries = (
        entry_of(RoundResult(replace(CAUSE, ids=(f"r{number}",)), NOON, end, BASE), usage)
        for number, usage in enumerate(usages, 1)
    )
    return read_record(RoundRecord(rounds=tuple(entries)).to_json())


MENTION: dict[str, Any] = {"comments": (remark(7, ANNA, "@coding-agent go on", 60),)}
REVIEWED = replace(RED, reviews=(review(2, OLAF, second=60),))
ROWS: list[tuple[str, ChangeSnapshot, Allowance | None, RoundRecord, str | None]] = [
    ("no budget", RED, None, record(used(10**6, "99.00")), "no budget"),
    ("nothing was spent", RED, DOLLARS, RoundRecord(), "5.00 USD"),
    ("some is left", RED, DOLLARS, record(used(10, "1.25"), used(10, "3.00")), "0.75 USD"),
    ("all was spent", RED, DOLLARS, record(used(10, "1.25"), used(10, "3.75")), None),
    ("tokens", RED, TOKENS, record(used(600), used(399)), "1 tokens"),
    ("too many tokens", RED, TOKENS, record(used(600), used(600)), None),
    ("superseded rounds cost too", RED, TOKENS, record(used(1000), end=RoundEnd.SUPERSEDED), None),
    ("an unknown cost is the whole budget", RED, DOLLARS, record(used(10)), None),
    ("no request costs nothing", RED, DOLLARS, record(Usage()), "5.00 USD"),
    ("a person asks for more", replace(RED, **MENTION), TOKENS, record(used(1000)), "1,000 tokens"),
    ("a review does not", REVIEWED, TOKENS, record(used(1000)), None),
]


@pytest.mark.parametrize(
    ("snapshot", "budget", "earlier", "left"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_rounds_start_while_the_budget_of_the_change_has_something_left(
    snapshot: ChangeSnapshot, budget: Allowance | None, earlier: RoundRecord, left: str | None
) -> None:
    work = open_work(snapshot, earlier, replace(POLICY, budget=budget), LATER, may_write=may_write)
    if left is None:
        assert not work.due
        assert work.stops[0].reason is StopReason.BOUND
        assert f"have spent their budget of {budget}" in work.stops[0].sentence
    else:
        assert work.due
        assert str(work.left or "no budget") == left


def test_the_record_has_what_all_attempts_of_a_round_used() -> None:
    trigger = trigger_of(CAUSE, NOON)[1]
    ended = RoundResult(CAUSE, NOON, RoundEnd.NO_PUSH, BASE)
    for result in (ended, replace(ended, end=RoundEnd.SUPERSEDED), None):
        reported = report_of_round(result) if result else None
        for usage, expected in ((used(300), 300), (None, 0)):
            found = recorded(RoundRecord(), trigger, reported, RoundEnd.FAILED, usage=usage)
            assert found.spent(TOKENS, 0) == expected
