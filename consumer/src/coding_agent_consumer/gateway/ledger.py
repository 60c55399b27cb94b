"""Count what answers cost and an attempt has spent, and decide whether a request fits its allowance.

A request that runs alone starts if its input still fits. Parallel requests start only if the most
that all of them may use fits: each reserves its input and its longest answer, and returns what it did not
use. A request for which this is not known runs without others, and reserves all that is left. So an allowance
is never exceeded by more than one answer. There is no I/O.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from coding_agent_core.settings.llm import Price
from coding_agent_core.task.usage import MANY_TOKENS, Allowance, Cost, Usage
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price

_LISTED_CURRENCY = "USD"
"""The currency of the public list prices (genai-prices)."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of one answer, as the provider counts them.

    Attributes:
        input: all tokens that were sent, including `cache_read` and `cache_write`.
        cache_read: tokens read from the provider's cache.
        cache_write: tokens written to the provider's cache.
        cache_write_1h: the part of `cache_write` that is kept for an hour.
        input_audio: the part of `input` that is sound, from the cache or not.
        cache_audio: the part of `input_audio` from the cache.
        output_audio: the part of `output` that is sound.
        mode: the service tier or speed of the answer, if this can have a price of its own.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    cache_audio: int = 0
    output_audio: int = 0
    mode: str = ""

    @property
    def total(self) -> int:
        return self.input + self.output

    def largest(self, other: Tokens) -> Tokens:
        """Return the larger of the two for each number: a stream's counts only grow."""
        return self._with(other, max)

    def plus(self, other: Tokens) -> Tokens:
        return self._with(other, int.__add__)

    def _with(self, other: Tokens, combine: Callable[[int, int], int]) -> Tokens:
        return Tokens(
            input=combine(self.input, other.input),
            output=combine(self.output, other.output),
            cache_read=combine(self.cache_read, other.cache_read),
            cache_write=combine(self.cache_write, other.cache_write),
            cache_write_1h=combine(self.cache_write_1h, other.cache_write_1h),
            input_audio=combine(self.input_audio, other.input_audio),
            cache_audio=combine(self.cache_audio, other.cache_audio),
            output_audio=combine(self.output_audio, other.output_audio),
            mode=other.mode or self.mode,
        )


@dataclass(frozen=True)
class Size:
    """The number of tokens that a request can use.

    Attributes:
        least: tokens of its input, estimated from its text.
        most: tokens of its input, at one for each byte, and of its longest answer; `None`: not known.
    """

    least: int
    most: Tokens | None


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str


Pricing = Callable[[Tokens], Money]
"""Returns what tokens of one model cost at one provider."""


def pricing_of(model: str, base_url: str, prices: dict[str, Price]) -> Pricing | None:
    """Return the configured price, or the public list price at the address; `None` if neither is known.

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


def dearest(pricings: Iterable[Pricing | None]) -> Pricing | None:
    """Return the highest price of several models or providers that may answer; `None` if none is known.

    Prices in a currency other than the first one are left out.
    """
    known = [one for one in pricings if one is not None]
    if len(known) < 2:
        return known[0] if known else None

    def most(tokens: Tokens) -> Money:
        costs = [pricing(tokens) for pricing in known]
        return max(
            (cost for cost in costs if cost.currency == costs[0].currency), key=lambda cost: cost.amount
        )

    return most


@lru_cache(maxsize=100)  # a look-up takes milliseconds
def longest_answer(model: str, base_url: str) -> int | None:
    """Return the tokens of a model's context, all of which an answer can take; `None`: not known."""
    try:
        return calc_price(ListedUsage(), model, provider_api_url=base_url).model.context_window
    except LookupError:
        return None


@lru_cache(maxsize=100)  # a look-up takes milliseconds
def _listed(model: str, base_url: str) -> Pricing | None:
    def listed(tokens: Tokens) -> Money:
        # The library refuses parts that are larger than their whole.
        read = min(tokens.cache_read, tokens.input)
        written = min(tokens.cache_write, tokens.input - read)
        sound = min(tokens.input_audio, tokens.input - written)
        used = ListedUsage(
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(tokens.cache_write_1h, written),
            input_audio_tokens=sound,
            cache_audio_read_tokens=max(
                min(tokens.cache_audio, sound, read), sound - (tokens.input - read - written)
            ),
            output_audio_tokens=min(tokens.output_audio, tokens.output),
        )
        mode = {"service_tier": tokens.mode, "speed": tokens.mode} if tokens.mode else None
        found = calc_price(used, model, provider_api_url=base_url, price_context=mode)
        return Money(found.total_price, _LISTED_CURRENCY)

    try:
        listed(Tokens(input=1, output=1))
    except LookupError:
        return None
    return listed


class Verdict(StrEnum):
    """The decision about a request that costs something."""

    ADMITTED = "admitted"
    WAIT = "wait"
    """The request fits only if the answers under way use less than they reserved."""
    EXHAUSTED = "exhausted"


@dataclass(frozen=True)
class _Reservation:
    """The room that the ledger holds for one answer.

    Attributes:
        value: the reserved amount in the allowance's unit.
        size: the size of the request.
    """

    value: Decimal
    size: Size


@dataclass
class Ledger:
    """Counts what one attempt spends, and reserves room for answers.

    Attributes:
        allowance: what the attempt may spend; `None`: there is no limit.
        models: the usage so far, by model.
        spent: the amount spent so far, in the allowance's unit.

    example:
        number = ledger.reserve(ask.size, pricing)
        if isinstance(number, Verdict): ...  # wait for other answers, or refuse the request
        ledger.charge(number, "gpt-5", Tokens(input=1200, output=300), pricing)  # or ledger.release(number)
    """

    allowance: Allowance | None = None
    models: dict[str, Usage] = field(default_factory=dict)
    spent: Decimal = Decimal(0)
    _reserved: dict[int, _Reservation] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def usage(self) -> Usage:
        """The usage so far, of all models together."""
        total = Usage()
        for used in self.models.values():
            total = total.plus(used)
        return total

    @property
    def counts_money(self) -> bool:
        return self.allowance is not None and self.allowance.currency is not None

    def countable(self, pricing: Pricing | None) -> bool:
        """Whether the allowance can count the usage of a model.

        It cannot if the allowance is a sum of money and the model has no price in its currency.

        Args:
            pricing: the model's prices; `None` if they are not known.
        """
        if self.allowance is None or self.allowance.currency is None:
            return True
        return pricing is not None and pricing(Tokens()).currency == self.allowance.currency

    def reserve(self, size: Size, pricing: Pricing | None) -> int | Verdict:
        """Reserve room for one answer.

        Returns:
            the reservation's number, for `charge` and `release`, or why there is no reservation.
        """
        value = Decimal(0)
        if self.allowance is not None:
            left = self.allowance.value - self.spent
            # Only the input has to fit. Otherwise a client that always asks for a long answer could never use
            # the end of its allowance.
            if left <= 0 or self._value(Tokens(input=size.least), pricing) > left:
                return Verdict.EXHAUSTED
            value = left if size.most is None else min(left, self._most(size.most, pricing))
            others = sum(one.value for one in self._reserved.values())
            # Parallel requests must fit with their longest answers, and a request of unknown size runs alone.
            # With estimates, parallel requests exceeded an allowance many times over.
            if self._reserved and (size.most is None or self._most(size.most, pricing) > left - others):
                return Verdict.WAIT
        number = next(self._numbers)
        self._reserved[number] = _Reservation(value, size)
        return number

    def release(self, number: int) -> None:
        """Cancel the reservation of a request that was not answered and cost nothing."""
        self._reserved.pop(number, None)

    def charge(self, number: int, model: str, used: Tokens, pricing: Pricing | None) -> None:
        """Replace a reservation with what the answer used."""
        self.release(number)
        cost = pricing(used) if pricing is not None else None
        self._count(model, used, self._value(used, pricing), cost)

    def charge_reserved(self, number: int, model: str, seen: Tokens, pricing: Pricing | None) -> None:
        """Charge a whole reservation, because the answer does not say how many tokens it used.

        Args:
            seen: the tokens that the answer showed. They count if nothing is reserved, without an allowance.
        """
        held = self._reserved.pop(number)
        if self.allowance is None:
            self._count(model, seen, Decimal(0), pricing(seen) if pricing is not None else None)
            return
        # A command could arrange answers that say nothing of their usage, so such an answer is the dearest.
        most = held.size.most or Tokens(input=held.size.least)
        if self.allowance.currency is None:
            sent = min(most.input, int(held.value))
            most = Tokens(input=sent, output=int(held.value) - sent)
            self._count(model, most, held.value, pricing(most) if pricing is not None else None)
        else:
            self._count(model, most, held.value, Money(held.value, self.allowance.currency))

    def _count(self, model: str, used: Tokens, value: Decimal, cost: Money | None) -> None:
        self.spent += value
        answer = Usage(
            requests=1,
            input_tokens=min(used.input, MANY_TOKENS),
            output_tokens=min(used.output, MANY_TOKENS),
            cost=None if cost is None else Cost.of(cost.amount, cost.currency),
            # The schema of AgentTask allows no longer name.
            model=model[:256],
        )
        self.models[model] = self.models.get(model, Usage()).plus(answer)

    def _most(self, tokens: Tokens, pricing: Pricing | None) -> Decimal:
        """Return the highest possible value: a cache write can double the price of all input."""
        sent = tokens.input
        written = Tokens(sent, tokens.output, cache_write=sent)
        # Before the answer, nobody knows how much is cached and for how long, and each has a price.
        kept = Tokens(sent, tokens.output, cache_write=sent, cache_write_1h=sent)
        return max(self._value(one, pricing) for one in (tokens, written, kept))

    def _value(self, tokens: Tokens, pricing: Pricing | None) -> Decimal:
        """Return the tokens' value in the allowance's unit."""
        if self.allowance is None:
            return Decimal(0)
        if self.allowance.currency is None:
            return Decimal(tokens.total)
        return pricing(tokens).amount if pricing is not None else Decimal(0)
