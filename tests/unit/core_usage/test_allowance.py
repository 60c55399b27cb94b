from decimal import Decimal
from typing import Any

import pytest
from coding_agent_core.usage import Allowance, Cost, Usage

FIVE = Allowance(amount=Decimal(5), currency="USD")
MANY = Allowance(tokens=1000)


@pytest.mark.parametrize(
    "data",
    [
        *({}, {"amount": "5"}, {"currency": "USD"}, {"tokens": -1}),
        *({"amount": amount, "currency": "USD"} for amount in ("-1", "NaN", "0.0000001")),
        *({"amount": "5", "currency": "dollars"}, {"amount": "5", "currency": "USD", "tokens": 5}),
    ],
)
def test_an_allowance_is_money_or_tokens(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"amount|currency|tokens"):
        Allowance.model_validate(data)


@pytest.mark.parametrize(
    ("allowance", "wire", "text"),
    [(FIVE, {"amount": "5", "currency": "USD"}, "5.00 USD"), (MANY, {"tokens": 1000}, "1,000 tokens")],
)
def test_money_is_written_as_text_and_read_again(allowance: Allowance, wire: object, text: str) -> None:
    assert (allowance.to_wire(), str(allowance)) == (wire, text)
    assert Allowance.model_validate(wire) == allowance


@pytest.mark.parametrize(
    ("allowance", "usage", "spent"),
    [
        (MANY, Usage(requests=1, input_tokens=3, output_tokens=4), Decimal(7)),
        (FIVE, Usage(requests=1, cost=Cost(amount="0.25", currency="USD")), Decimal("0.25")),
        (FIVE, Usage(), Decimal(0)),
        (FIVE, Usage(requests=1), None),
        (FIVE, Usage(requests=1, cost=Cost(amount="0.25", currency="EUR")), None),
        (FIVE, None, None),
        (MANY, None, None),
    ],
)
def test_a_usage_in_the_unit_of_an_allowance(
    allowance: Allowance, usage: Usage | None, spent: Decimal | None
) -> None:
    assert allowance.spent(usage) == spent


def test_what_is_left_is_never_negative() -> None:
    assert FIVE.with_value(Decimal(-1)).value == 0
    assert MANY.with_value(Decimal(12)) == Allowance(tokens=12)
