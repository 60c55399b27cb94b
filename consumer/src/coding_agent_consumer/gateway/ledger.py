"""What answers cost, what an attempt has spent, and whether one more request fits its allowance. Pure.

A request alone starts while its input still fits. Requests in parallel start only if all that they may use
at most fits: each reserves its input and its longest answer, and returns what it did not use. So an allowance
is never exceeded by more than one answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from coding_agent_core.usage import Allowance, Cost, Price, Usage
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price

_LISTED_CURRENCY = "USD"
"""Of the public list prices (genai-prices)."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of one answer, as the provider counts them.

    Attributes:
        input: all that was sent, `cache_read` and `cache_write` included.
        cache_read: from the provider's cache.
        cache_write: written to the provider's cache.
        cache_write_1h: of `cache_write`, those that are kept for an hour.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output

    def largest(self, other: Tokens) -> Tokens:
        """The larger of each number: a stream's counts only grow."""
        return Tokens(
            max(self.input, other.input),
            max(self.output, other.output),
            max(self.cache_read, other.cache_read),
            max(self.cache_write, other.cache_write),
            max(self.cache_write_1h, other.cache_write_1h),
        )


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str


Pricing = Callable[[Tokens], Money]
"""What tokens of one model cost at one provider."""


def pricing_of(model: str, base_url: str, prices: dict[str, Price]) -> Pricing | None:
    """The configured price, else the public list price of the address; `None` where neither is known.

    Args:
        prices: `llm.prices`.
    """
    if (price := prices.get(model)) is not None:
        return lambda tokens: Money(
            price.amount(
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cached_tokens=tokens.cache_read,
                cache_write_tokens=tokens.cache_write,
            ),
            price.currency,
        )
    return _listed(model, base_url)


@lru_cache(maxsize=100)  # a look-up takes milliseconds
def _listed(model: str, base_url: str) -> Pricing | None:
    def listed(tokens: Tokens) -> Money:
        used = ListedUsage(
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            cache_write_tokens=tokens.cache_write,
            cache_write_1h_tokens=tokens.cache_write_1h,
        )
        found = calc_price(used, model, provider_api_url=base_url)
        return Money(found.total_price, _LISTED_CURRENCY)

    try:
        listed(Tokens(input=1, output=1))
    except LookupError:
        return None
    return listed


class Verdict(StrEnum):
    """The answer to a request that costs something."""

    ADMITTED = "admitted"
    WAIT = "wait"
    """It fits only if the answers under way use less than they reserved."""
    EXHAUSTED = "exhausted"


@dataclass
class Ledger:
    """What one attempt spends.

    Attributes:
        allowance: `None` limits nothing.
        models: what was used so far, by model.
        spent: so far, in the allowance's unit.
    """

    allowance: Allowance | None = None
    models: dict[str, Usage] = field(default_factory=dict)
    spent: Decimal = Decimal(0)
    _reserved: dict[int, Decimal] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def usage(self) -> Usage:
        """What was used so far, over all models."""
        total = Usage()
        for used in self.models.values():
            total = total.plus(used)
        return total

    def countable(self, pricing: Pricing | None) -> bool:
        """Whether the allowance can count what a model uses: money needs a price in its currency."""
        if self.allowance is None or self.allowance.currency is None:
            return True
        return pricing is not None and pricing(Tokens()).currency == self.allowance.currency

    def reserve(self, estimated: Tokens, pricing: Pricing | None) -> int | Verdict:
        """Reserve room for one answer.

        Args:
            estimated: of the request's input, and of the longest answer that it allows.

        Returns:
            the number of the reservation for `settle` and `release`, or why there is none.
        """
        most = self._value(estimated, pricing)
        verdict = self._verdict(self._value(replace(estimated, output=0), pricing), most)
        if verdict is not Verdict.ADMITTED:
            return verdict
        number = next(self._numbers)
        self._reserved[number] = most
        return number

    def release(self, number: int) -> None:
        """Return a reservation of a request that was not answered, and cost nothing."""
        self._reserved.pop(number, None)

    def settle(self, number: int, model: str, used: Tokens, pricing: Pricing | None) -> None:
        """Replace a reservation by what the answer used."""
        self.release(number)
        self.spent += self._value(used, pricing)
        cost = pricing(used) if pricing is not None else None
        answer = Usage(
            requests=1,
            input_tokens=used.input,
            output_tokens=used.output,
            cost=None if cost is None else Cost.of(cost.amount, cost.currency),
            model=model[:256],
        )
        self.models[model] = self.models.get(model, Usage()).plus(answer)

    def _verdict(self, certain: Decimal, most: Decimal) -> Verdict:
        if self.allowance is None:
            return Verdict.ADMITTED
        left = self.allowance.value - self.spent
        if left <= 0 or certain > left:
            return Verdict.EXHAUSTED
        if not self._reserved or most <= left - sum(self._reserved.values()):
            return Verdict.ADMITTED
        return Verdict.WAIT

    def _value(self, tokens: Tokens, pricing: Pricing | None) -> Decimal:
        """In the allowance's unit."""
        if self.allowance is None:
            return Decimal(0)
        if self.allowance.currency is None:
            return Decimal(tokens.total)
        return pricing(tokens).amount if pricing is not None else Decimal(0)
