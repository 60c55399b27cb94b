"""What a round's attempt may spend: its own allowance, and never more than is left of the change's budget."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from coding_agent_consumer.rounds.work import RoundWork
from coding_agent_core.usage import Allowance

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
