"""Costs are exact and add up over attempts of one currency; an allowance is money or tokens."""

from decimal import Decimal
from typing import Any

import pytest
from coding_agent_core.settings.llm import Price
from coding_agent_core.task.usage import Allowance, Cost, Usage, sum_of
from pydantic import ValidationError

CHEAP = {"input": "0.15", "output": "0.60"}
WRITTEN = {"input": "2", "output": "10", "cache_write": "2.5"}
CACHED = {"input": "2.50", "output": "10", "cached_input": "1.25", "currency": "EUR"}
M = 1_000_000


def money(text: str | None) -> Cost | None:
    return None if text is None else Cost(amount=text.split()[0], currency=text.split()[1])


@pytest.mark.parametrize(
    ("prices", "tokens", "expected"),
    [
        (CHEAP, (M, 0, 0, 0), "0.15 USD"),
        (CHEAP, (1000, 500, 0, 0), "0.00045 USD"),
        (CHEAP, (3, 0, 0, 0), "0.00 USD"),
        (CHEAP, (4, 0, 0, 0), "0.000001 USD"),
        (CHEAP, (M, 0, 900_000, 0), "0.15 USD"),
        (CACHED, (M, 0, 400_000, 0), "2.00 EUR"),
        (CACHED, (10, 0, 99, 0), "0.000013 EUR"),
        (WRITTEN, (M, 0, 0, 400_000), "2.20 USD"),
        (WRITTEN, (10, 0, 0, 99), "0.000025 USD"),
        (WRITTEN, (M, 0, M // 2, M // 2), "2.25 USD"),
        (CACHED, (2**53, 0, 0, 0), "22517998136.85248 EUR"),
        ({"input": 0.1, "output": 0.2}, (3 * M, 0, 0, 0), "0.30 USD"),  # not 0.30000000000000004
    ],
)
def test_tokens_at_a_price(prices: object, tokens: tuple[int, int, int, int], expected: str) -> None:
    names = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens")
    price = Price.model_validate(prices)
    assert str(Cost.of(price.amount(**dict(zip(names, tokens, strict=True))), price.currency)) == expected


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (None, None, None),
        ("0.10 USD", None, "0.10 USD"),
        (None, "0.10 USD", "0.10 USD"),
        ("0.10 USD", "0.20 USD", "0.30 USD"),
        ("0.999999 USD", "0.000001 USD", "1.00 USD"),
        ("0.10 USD", "1.00 EUR", "1.00 EUR"),
    ],
)
def test_the_sum_over_attempts(first: str | None, second: str | None, total: str | None) -> None:
    assert sum_of(money(first), money(second)) == money(total)


@pytest.mark.parametrize(
    "wrong", [{"input": -1, "output": 1}, {"input": 1}, {"input": 1, "output": 1, "currency": "$"}]
)
def test_a_wrong_price_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Price.model_validate(wrong)


@pytest.mark.parametrize("amount", ["", "1e3", "-1", "1.0000001", "NaN"])
def test_an_amount_is_a_plain_decimal(amount: str) -> None:
    with pytest.raises(ValidationError):
        Cost(amount=amount, currency="USD")


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


def test_a_sum_of_reports_fits_a_status_whatever_they_say() -> None:
    """An agent that was taken over can report any number, and its task must end all the same."""
    most = Usage(requests=2**53, input_tokens=2**53, output_tokens=1, model="m")
    assert most.plus(most) == most.model_copy(update={"output_tokens": 2})
    both = most.model_copy(update={"models": (*most.by_model, *most.by_model)})
    assert Usage().plus(both).by_model[0].input_tokens == 2**53


def test_what_is_left_is_never_negative() -> None:
    assert FIVE.with_value(Decimal(-1)).value == 0
    assert MANY.with_value(Decimal(12)) == Allowance(tokens=12)
