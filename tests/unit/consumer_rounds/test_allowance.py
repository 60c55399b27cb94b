"""What a round's attempt may spend: its own allowance, and never more than is left of the change's budget."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.rounds.work import RoundWork
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Allowance, Cost, Usage

MANY, FEW = Allowance(tokens=1000), Allowance(tokens=10)
DOLLARS = Allowance(amount=Decimal(5), currency="USD")


@pytest.mark.parametrize(
    ("given", "left", "expected"),
    [
        (None, None, None),
        (MANY, None, MANY),
        (None, FEW, FEW),
        (MANY, FEW, FEW),
        (FEW, MANY, FEW),
        (DOLLARS, FEW, DOLLARS),  # they cannot be compared
    ],
)
def test_the_smaller_one_counts(
    given: Allowance | None, left: Allowance | None, expected: Allowance | None
) -> None:
    work: Any = SimpleNamespace(left=left)
    assert RoundWork.allowance(work, given) == expected


def used(tokens: int, amount: str | None = None) -> Usage:
    cost = None if amount is None else Cost(amount=amount, currency="USD")
    return Usage(requests=1, input_tokens=tokens, cost=cost)


@pytest.mark.parametrize(
    ("left", "earlier", "expected", "is_over"),
    [
        (MANY, Usage(), 1000, False),
        (MANY, used(400), 600, False),
        (MANY, used(1000), 0, True),
        (MANY, used(5000), 0, True),
        (MANY, None, 0, True),  # an attempt was killed before it could say
        (DOLLARS, used(9, "1.50"), Decimal("3.50"), False),
        (DOLLARS, used(9), 0, True),  # the model has no price
        (None, used(9), None, False),
    ],
)
def test_the_budget_holds_for_all_attempts_of_a_round(
    left: Allowance | None, earlier: Usage | None, expected: Any, is_over: bool
) -> None:
    work: Any = SimpleNamespace(left=left, over=None, policy=SimpleNamespace(budget=left))
    RoundWork.charge(work, earlier)
    assert (work.left and work.left.value) == expected
    assert (work.over is not None and work.over.reason is Reason.BUDGET_EXCEEDED) is is_over
