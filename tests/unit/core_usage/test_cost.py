"""Costs are exact, and add up over attempts of one currency."""

from __future__ import annotations

import pytest
from coding_agent_core.settings.load import load_settings
from coding_agent_core.usage import Cost, Price, sum_of
from pydantic import ValidationError

CHEAP = Price.model_validate({"input": "0.15", "output": "0.60"})
WRITTEN = Price.model_validate({"input": "2", "output": "10", "cache_write": "2.5"})
CACHED = Price.model_validate({"input": "2.50", "output": "10", "cached_input": "1.25", "currency": "EUR"})


def money(text: str) -> Cost:
    amount, currency = text.split(" ")
    return Cost(amount=amount, currency=currency)


def _cost(price: Price, **tokens: int) -> Cost:
    return Cost.of(price.amount(**tokens), price.currency)


@pytest.mark.parametrize(
    ("price", "tokens", "expected"),
    [
        (CHEAP, {"input_tokens": 1_000_000, "output_tokens": 0}, "0.15 USD"),
        (CHEAP, {"input_tokens": 1000, "output_tokens": 500}, "0.00045 USD"),
        (CHEAP, {"input_tokens": 0, "output_tokens": 0}, "0.00 USD"),
        (CHEAP, {"input_tokens": 3, "output_tokens": 0}, "0.00 USD"),
        (CHEAP, {"input_tokens": 4, "output_tokens": 0}, "0.000001 USD"),
        (CHEAP, {"input_tokens": 1_000_000, "output_tokens": 0, "cached_tokens": 900_000}, "0.15 USD"),
        (CACHED, {"input_tokens": 1_000_000, "output_tokens": 0, "cached_tokens": 400_000}, "2.00 EUR"),
        (CACHED, {"input_tokens": 10, "output_tokens": 0, "cached_tokens": 99}, "0.000013 EUR"),
        (WRITTEN, {"input_tokens": 1_000_000, "output_tokens": 0, "cache_write_tokens": 400_000}, "2.20 USD"),
        (WRITTEN, {"input_tokens": 10, "output_tokens": 0, "cache_write_tokens": 99}, "0.000025 USD"),
        (
            WRITTEN,
            {
                "input_tokens": 1_000_000,
                "output_tokens": 0,
                "cached_tokens": 500_000,
                "cache_write_tokens": 500_000,
            },
            "2.25 USD",
        ),
        (CACHED, {"input_tokens": 2**53, "output_tokens": 0}, "22517998136.85248 EUR"),
    ],
)
def test_tokens_at_a_price(price: Price, tokens: dict[str, int], expected: str) -> None:
    assert str(_cost(price, **tokens)) == expected


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
    costs = [None if entry is None else money(entry) for entry in (first, second, total)]
    assert sum_of(costs[0], costs[1]) == costs[2]


def test_a_tenth_added_ten_times_is_one() -> None:
    total: Cost | None = None
    for _ in range(10):
        total = sum_of(total, money("0.10 USD"))
    assert total == money("1.00 USD")


def test_prices_come_from_the_settings(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "config.yaml"
    file.write_text("llm: {prices: {gpt-4o: {input: 2.5, output: 10}, tiny: {input: 0.1, output: 0.2}}}\n")
    prices = load_settings(file, {}).llm.prices
    assert str(_cost(prices["gpt-4o"], input_tokens=1_000, output_tokens=100)) == "0.0035 USD"
    assert str(_cost(prices["tiny"], input_tokens=3_000_000, output_tokens=0)) == "0.30 USD", (
        "no 0.30000000000000004"
    )


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
