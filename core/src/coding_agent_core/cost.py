"""What model requests cost, where a price is configured: exact decimals, never binary fractions. Pure."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from pydantic import BaseModel, ConfigDict, Field

_SMALLEST = Decimal("0.000001")
"""A single request to a cheap model costs less than a hundredth of any currency's smallest coin."""
_MILLION = Decimal(1_000_000)
_CENTS = 2


class Cost(BaseModel):
    """An amount of money.

    Attributes:
        amount: decimal number with at most six places, as text: JSON numbers are binary fractions.
        currency: ISO 4217 code.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    amount: str = Field(max_length=20, pattern=r"^\d{1,12}(\.\d{1,6})?$")
    currency: str = Field(max_length=3, pattern=r"^[A-Z]{3}$")

    @staticmethod
    def of(amount: Decimal, currency: str) -> Cost:
        """Rounded to at least cents, at most six places, no zeros at the end beyond the cents."""
        largest = Decimal(10**12) - _SMALLEST
        whole, _, fraction = f"{min(amount, largest).quantize(_SMALLEST, ROUND_HALF_UP):f}".partition(".")
        return Cost(amount=f"{whole}.{fraction.rstrip('0').ljust(_CENTS, '0')}", currency=currency)

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


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


def cost_of(price: Price, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Cost:
    """The cost of requests.

    Args:
        input_tokens: all that were sent, those from the provider's cache among them.
        cached_tokens: of those, how many came from its cache.
    """
    cached = min(max(cached_tokens, 0), input_tokens)
    rate = price.input if price.cached_input is None else price.cached_input
    amount = (input_tokens - cached) * price.input + cached * rate + output_tokens * price.output
    return Cost.of(amount / _MILLION, price.currency)


def sum_of(first: Cost | None, second: Cost | None) -> Cost | None:
    """Both together, in the currency of the second: nobody here knows a rate, so another one is left out.

    `None` adds nothing: what has no known price is left out of the sum.
    """
    if first is None or second is None:
        return second or first
    if first.currency != second.currency:
        return second
    return Cost.of(Decimal(first.amount) + Decimal(second.amount), second.currency)
