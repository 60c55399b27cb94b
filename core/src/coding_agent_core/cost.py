"""What model requests cost, where a price is configured: exact decimals, never binary fractions. Pure.

A cost crosses borders as text, `0.0123 USD`; attempts that were paid in several currencies as
`0.0123 EUR + 1.20 USD`, for nobody here knows a rate.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

from pydantic import BaseModel, ConfigDict, Field

PATTERN = r"^\d{1,12}(\.\d{1,6})? [A-Z]{3}( \+ \d{1,12}(\.\d{1,6})? [A-Z]{3}){0,2}$"
MAX_LENGTH = 80
_SMALLEST = Decimal("0.000001")
"""A single request to a cheap model costs less than a hundredth of any currency's smallest coin."""
_MILLION = Decimal(1_000_000)
_CENTS = 2


class Price(BaseModel):
    """What a model's provider asks for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Decimal = Field(ge=0, le=1_000_000)
    """For a million tokens sent."""
    output: Decimal = Field(ge=0, le=1_000_000)
    """For a million tokens received."""
    cached_input: Decimal | None = Field(default=None, ge=0, le=1_000_000)
    """For a million tokens sent that the provider had in its cache; by default the same as `input`."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """ISO 4217 code, for example `USD` or `EUR`."""


def cost_of(price: Price, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> str:
    """The cost as text.

    Args:
        input_tokens: all that were sent, those from the provider's cache among them.
        cached_tokens: of those, how many came from its cache.
    """
    cached = min(max(cached_tokens, 0), input_tokens)
    rate = price.input if price.cached_input is None else price.cached_input
    amount = (input_tokens - cached) * price.input + cached * rate + output_tokens * price.output
    return _text({price.currency: amount / _MILLION})


def sum_of(first: str | None, second: str | None) -> str | None:
    """Both together. `None` adds nothing: what has no known price is left out of the sum.

    Text that is no cost counts as `None`: it was stored by another release. Four currencies are too many.
    """
    total: dict[str, Decimal] = {}
    for each in (first, second):
        if each is None or re.fullmatch(PATTERN, each) is None:
            continue
        for part in each.split(" + "):
            amount, currency = part.split(" ")
            total[currency] = total.get(currency, Decimal(0)) + Decimal(amount)
    text = _text(total)
    return text if re.fullmatch(PATTERN, text) else None


def _text(amounts: dict[str, Decimal]) -> str:
    return " + ".join(f"{_digits(amounts[currency])} {currency}" for currency in sorted(amounts))


def _digits(amount: Decimal) -> str:
    """At least cents, at most six places, no zeros at the end beyond the cents."""
    whole, _, fraction = f"{amount.quantize(_SMALLEST, ROUND_HALF_UP):f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(_CENTS, '0')}"
