"""Costs are exact, and are added up over attempts whatever their currency."""

from __future__ import annotations

import pytest
from coding_agent_core.cost import Price, cost_of, sum_of
from coding_agent_core.settings import load_settings
from pydantic import ValidationError

CHEAP = Price.model_validate({"input": "0.15", "output": "0.60"})
CACHED = Price.model_validate({"input": "2.50", "output": "10", "cached_input": "1.25", "currency": "EUR"})


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
        (CACHED, {"input_tokens": 2**53, "output_tokens": 0}, "22517998136.85248 EUR"),
    ],
)
def test_tokens_at_a_price(price: Price, tokens: dict[str, int], expected: str) -> None:
    assert cost_of(price, **tokens) == expected


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (None, None, None),
        ("0.10 USD", None, "0.10 USD"),
        (None, "0.10 USD", "0.10 USD"),
        ("0.10 USD", "0.20 USD", "0.30 USD"),
        ("0.999999 USD", "0.000001 USD", "1.00 USD"),
        ("0.10 USD", "1.00 EUR", "1.00 EUR + 0.10 USD"),
        ("1.00 EUR + 0.10 USD", "0.10 USD", "1.00 EUR + 0.20 USD"),
        ("free of charge", "0.10 USD", "0.10 USD"),
        ("NaN USD", None, None),
        ("1.00 EUR + 1.00 JPY + 1.00 USD", "1.00 CHF", None),
    ],
)
def test_the_sum_over_attempts(first: str | None, second: str | None, total: str | None) -> None:
    assert sum_of(first, second) == total


def test_a_tenth_added_ten_times_is_one() -> None:
    total = None
    for _ in range(10):
        total = sum_of(total, "0.10 USD")
    assert total == "1.00 USD"


def test_prices_come_from_the_settings(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "config.yaml"
    file.write_text("llm: {prices: {gpt-4o: {input: 2.5, output: 10}, tiny: {input: 0.1, output: 0.2}}}\n")
    prices = load_settings(file, {}).llm.prices
    assert cost_of(prices["gpt-4o"], input_tokens=1_000, output_tokens=100) == "0.0035 USD"
    assert cost_of(prices["tiny"], input_tokens=3_000_000, output_tokens=0) == "0.30 USD", (
        "no 0.30000000000000004"
    )


@pytest.mark.parametrize(
    "wrong", [{"input": -1, "output": 1}, {"input": 1}, {"input": 1, "output": 1, "currency": "$"}]
)
def test_a_wrong_price_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Price.model_validate(wrong)
