"""The model usage of attempts, its cost, and the limits on it in money or tokens. Pure.

Pods of a newer release may send usage to the operator, which ignores fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from pydantic import ConfigDict, Field, field_serializer, model_validator
from pydantic.alias_generators import to_camel

from coding_agent_core.task.model import Frozen

MAX_MODELS = 8
"""A usage names this many models, the most expensive ones. It sums up the others as `OTHER_MODELS`."""
OTHER_MODELS = "other"
UNKNOWN_MODEL = "unknown"
MANY_TOKENS = 2**53
"""More tokens than any attempt uses. Sums stop here: an agent or a provider may report any number, and the
status of a task could not hold a larger one."""
_SMALLEST = Decimal("0.000001")
"""Amounts are rounded to this, because a request to a cheap model costs far less than a cent."""
_CENTS = 2


class Cost(Frozen, extra="ignore"):
    """An amount of money.

    Attributes:
        amount: a decimal number with at most six places, as text because JSON numbers are binary fractions.
        currency: the ISO 4217 code.
    """

    amount: str = Field(max_length=20, pattern=r"^\d{1,12}(\.\d{1,6})?$")
    currency: str = Field(max_length=3, pattern=r"^[A-Z]{3}$")

    @staticmethod
    def of(amount: Decimal, currency: str) -> Cost:
        """Return a cost, rounded to at most six places and without trailing zeros beyond the cents."""
        largest = Decimal(10**12) - _SMALLEST
        whole, _, fraction = f"{min(amount, largest).quantize(_SMALLEST, ROUND_HALF_UP):f}".partition(".")
        return Cost(amount=f"{whole}.{fraction.rstrip('0').ljust(_CENTS, '0')}", currency=currency)

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


def sum_of(first: Cost | None, second: Cost | None) -> Cost | None:
    """Return the sum. If the currencies differ, only the second amount counts."""
    if first is None or second is None:
        return second or first
    if first.currency != second.currency:
        return second
    return Cost.of(Decimal(first.amount) + Decimal(second.amount), second.currency)


class _Counts(Frozen, extra="ignore", alias_generator=to_camel, populate_by_name=True):
    """Requests to the model and tokens, as the provider counts them."""

    requests: int = Field(default=0, ge=0, le=MANY_TOKENS)
    input_tokens: int = Field(default=0, ge=0, le=MANY_TOKENS)
    output_tokens: int = Field(default=0, ge=0, le=MANY_TOKENS)
    cost: Cost | None = None
    """The cost, or `None` if the model's price is not known."""


def _sums(first: _Counts, second: _Counts) -> dict[str, Any]:
    numbers = ("requests", "input_tokens", "output_tokens")
    sums = {name: min(getattr(first, name) + getattr(second, name), MANY_TOKENS) for name in numbers}
    return {**sums, "cost": sum_of(first.cost, second.cost)}


class ModelUsage(_Counts):
    """The usage of one model."""

    model: str = Field(max_length=256)

    def plus(self, other: ModelUsage) -> ModelUsage:
        return ModelUsage(model=self.model, **_sums(self, other))


class Usage(_Counts):
    """The usage of an attempt or a task.

    Attributes:
        model: the model's name; `None` if it is unknown or there were several models.
        models: the usage of each model if there were several; the most expensive is first.
    """

    model: str | None = Field(default=None, max_length=256)
    models: tuple[ModelUsage, ...] | None = Field(default=None, max_length=MAX_MODELS)

    @property
    def by_model(self) -> tuple[ModelUsage, ...]:
        """The usage by model, even if there was only one; empty if there was no request."""
        if self.models or not self.requests:
            return self.models or ()
        counts = {name: getattr(self, name) for name in _Counts.model_fields}
        return (ModelUsage(model=self.model or UNKNOWN_MODEL, **counts),)

    def plus(self, other: Usage) -> Usage:
        only = other.model if not self.requests or self.model == other.model else None
        models = _merged((*self.by_model, *other.by_model))
        return Usage(
            model=only if other.requests else self.model,
            **_sums(self, other),
            models=models if len(models) > 1 else None,
        )


def _merged(used: Iterable[ModelUsage]) -> tuple[ModelUsage, ...]:
    """Return the total usage of each model; the most expensive model is first."""
    sums: dict[str, ModelUsage] = {}
    for one in used:
        sums[one.model] = sums[one.model].plus(one) if one.model in sums else one
    other = sums.pop(OTHER_MODELS, None)
    ordered = sorted(sums.values(), key=_expense, reverse=True)
    if len(ordered) + (other is not None) > MAX_MODELS:
        for one in ordered[MAX_MODELS - 1 :]:
            rest = one.model_copy(update={"model": OTHER_MODELS})
            other = rest if other is None else other.plus(rest)
        ordered = ordered[: MAX_MODELS - 1]
    return (*ordered, *(() if other is None else (other,)))


def _expense(used: ModelUsage) -> tuple[Decimal, int]:
    return Decimal(used.cost.amount if used.cost else 0), used.input_tokens + used.output_tokens


_GIVEN: dict[str, Any] = {"not": {"type": "null"}}
_ABSENT: dict[str, Any] = {"type": "null"}


def _exactly(given: tuple[str, ...], absent: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON schema of an object with some fields and without others; null is absent."""
    properties = {**dict.fromkeys(given, _GIVEN), **dict.fromkeys(absent, _ABSENT)}
    return {"required": list(given), "properties": properties}


MONEY = _exactly(("amount", "currency"), ("tokens",))
TOKENS = _exactly(("tokens",), ("amount", "currency"))
"""The two forms of an allowance, as JSON schemas: the rule of `Allowance` for the chart's schema."""
NULLS: dict[str, Any] = {
    "required": ["amount", "currency", "tokens"],
    "properties": dict.fromkeys(("amount", "currency", "tokens"), _ABSENT),
}
"""An allowance that is not given: in values of the chart, null stands for a default, and is left out."""


class Allowance(Frozen):
    """The most that may be spent: money (`amount` with `currency`), or `tokens`, never both."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [MONEY, TOKENS, NULLS]})

    amount: Decimal | None = Field(default=None, ge=0, max_digits=18, decimal_places=6, allow_inf_nan=False)
    """Amount of money, with at most six decimal places."""
    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of `amount`, for example `USD`."""
    tokens: int | None = Field(default=None, ge=0, le=MANY_TOKENS)
    """Tokens sent and received together."""

    @model_validator(mode="after")
    def _money_or_tokens(self) -> Allowance:
        if (self.amount is None) != (self.currency is None):
            raise ValueError("give `amount` and `currency` together, for example amount 5.00, currency USD")
        if (self.amount is None) == (self.tokens is None):
            raise ValueError("give either `amount` with `currency`, or `tokens`")
        return self

    @field_serializer("amount")
    def _as_text(self, amount: Decimal | None) -> str | None:
        """Write the amount as text, because JSON numbers are binary fractions."""
        return None if amount is None else f"{amount:f}"

    def to_wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def unit(self) -> str:
        """The currency, or `tokens`."""
        return self.currency or "tokens"

    @property
    def value(self) -> Decimal:
        """The value in `unit`."""
        return self.amount if self.amount is not None else Decimal(self.tokens or 0)

    def with_value(self, value: Decimal) -> Allowance:
        """Return an allowance with another value in the same unit, at least 0."""
        value = max(Decimal(0), value)
        if self.currency is None:
            return Allowance(tokens=int(value))
        return Allowance(amount=value, currency=self.currency)

    def spent(self, usage: Usage | None) -> Decimal | None:
        """Return what a usage spent, in this allowance's unit; `None` if it is not known.

        An amount of money is not known if the model has no price, or a price in another currency.
        """
        if usage is None:
            return None
        if self.currency is None:
            return Decimal(usage.input_tokens + usage.output_tokens)
        if usage.cost is None:
            return None if usage.requests else Decimal(0)
        return Decimal(usage.cost.amount) if usage.cost.currency == self.currency else None

    def shown(self, value: Decimal) -> str:
        """Format a value with the unit, for people."""
        return f"{int(value):,} tokens" if self.currency is None else str(Cost.of(value, self.currency))

    def __str__(self) -> str:
        return self.shown(self.value)
