"""What may be spent, and what was: an amount of money, or a number of tokens. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import Field, field_serializer, model_validator

from coding_agent_core.outcome import Cost, Usage
from coding_agent_core.tasks import Frozen


class Allowance(Frozen):
    """What may be spent at most: money (`amount` with `currency`), or `tokens`, never both."""

    amount: Decimal | None = Field(default=None, ge=0, max_digits=18, decimal_places=6, allow_inf_nan=False)
    """Money, with at most six places."""
    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of `amount`, for example `USD`."""
    tokens: int | None = Field(default=None, ge=0, le=2**53)
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
        """JSON numbers are binary fractions."""
        return None if amount is None else f"{amount:f}"

    @staticmethod
    def of_wire(data: Mapping[str, Any] | None) -> Allowance | None:
        """From a `budget` or `allowance` as an AgentTask or an attempt's input has it.

        Raises:
            ValueError: it is neither money nor tokens.
        """
        return None if data is None else Allowance.model_validate(data)

    def to_wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def unit(self) -> str:
        """The currency, or `tokens`."""
        return self.currency or "tokens"

    @property
    def value(self) -> Decimal:
        """The number, in `unit`."""
        return self.amount if self.amount is not None else Decimal(self.tokens or 0)

    def with_value(self, value: Decimal) -> Allowance:
        """Another number in the same unit; at least 0."""
        value = max(Decimal(0), value)
        if self.currency is None:
            return Allowance(tokens=int(value))
        return Allowance(amount=value, currency=self.currency)

    def spent(self, usage: Usage | None) -> Decimal | None:
        """What a usage is in this unit; `None` if that is not known.

        Money is not known where the model has no price, or one in another currency.
        """
        if usage is None:
            return None
        if self.currency is None:
            return Decimal(usage.input_tokens + usage.output_tokens)
        if usage.cost is None:
            return None if usage.requests else Decimal(0)
        return Decimal(usage.cost.amount) if usage.cost.currency == self.currency else None

    def __str__(self) -> str:
        if self.currency is None:
            return f"{self.tokens or 0:,} tokens"
        return str(Cost.of(self.value, self.currency))
