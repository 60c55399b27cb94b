"""An allowance is never exceeded by more than one answer, whatever runs in parallel."""

from decimal import Decimal

import pytest
from coding_agent_consumer.gateway.ledger import (
    Ledger,
    Money,
    Pricing,
    Size,
    Tokens,
    Verdict,
    dearest,
    longest_answer,
    pricing_of,
)
from coding_agent_core.task.usage import Allowance
from hypothesis import given
from hypothesis import strategies as st

CALLS = st.lists(
    st.tuples(
        st.sampled_from(["start", "unsized", "end", "lost"]),
        st.integers(min_value=0, max_value=60),
        st.integers(min_value=1, max_value=60),
        st.floats(min_value=0, max_value=1),
        st.integers(min_value=0, max_value=50),
    ),
    max_size=80,
)
"""Start or end a call; its input and longest output, the share of that which it uses, and which call ends.
`lost`: its answer does not say what it used."""


def _cents(tokens: Tokens) -> Money:
    """Writing to a cache costs twice as much."""
    return Money(Decimal(tokens.input + tokens.cache_write + 3 * tokens.output) / 100, "USD")


@given(calls=CALLS, limit=st.integers(min_value=0, max_value=400), priced=st.sampled_from([None, _cents]))
def test_parallel_calls_exceed_it_by_one_answer_at_most(
    calls: list[tuple[str, int, int, float, int]], limit: int, priced: Pricing | None
) -> None:
    allowance = (
        Allowance(tokens=limit) if priced is None else Allowance(amount=Decimal(limit) / 100, currency="USD")
    )
    ledger = Ledger(allowance)
    running: dict[int, Tokens] = {}

    def value(tokens: Tokens) -> Decimal:
        return Decimal(tokens.total) if priced is None else priced(tokens).amount

    for kind, sent, longest, share, which in calls:
        if kind in ("start", "unsized"):
            most = Tokens(input=sent, output=longest)
            size = Size(sent // 4, most if kind == "start" else None)
            number = ledger.reserve(size, priced)
            if number is Verdict.EXHAUSTED:
                left = allowance.value - ledger.spent
                assert left <= 0 or value(Tokens(input=sent // 4)) > left
            elif not isinstance(number, Verdict):
                assert kind == "start" or not running, "what has no known size runs alone"
                running[number] = Tokens(input=sent, output=int(longest * share), cache_write=sent)
        elif running:
            number = list(running)[which % len(running)]
            used = running.pop(number)
            before = ledger.spent
            if kind == "end":
                ledger.charge(number, "m", used, priced)
                assert ledger.spent == before + value(used)
            else:
                ledger.charge_reserved(number, "m", Tokens(), priced)
                assert ledger.spent <= allowance.value or ledger.spent == before
        # Whatever the calls under way use, all but one of them fit.
        under_way = sorted(value(used) for used in running.values())
        assert len(under_way) < 2 or ledger.spent + sum(under_way) <= allowance.value
        assert allowance.spent(ledger.usage) == ledger.spent, "budgets see the same"


def test_a_request_waits_only_for_what_others_may_still_use() -> None:
    ledger = Ledger(Allowance(tokens=100))
    first = ledger.reserve(Size(10, Tokens(input=10, output=60)), None)
    assert isinstance(first, int)
    assert ledger.reserve(Size(10, Tokens(input=10, output=60)), None) is Verdict.WAIT
    assert ledger.reserve(Size(10, None), None) is Verdict.WAIT
    assert ledger.reserve(Size(101, None), None) is Verdict.EXHAUSTED, "nobody's end helps"
    ledger.charge(first, "m", Tokens(input=10, output=20), None)
    second = ledger.reserve(Size(10, Tokens(input=10, output=900)), None)
    assert isinstance(second, int), "alone it may start: its answer is likely shorter"
    assert ledger.reserve(Size(0, Tokens(output=1)), None) is Verdict.WAIT
    ledger.release(second)
    assert ledger.usage.requests == 1
    third = ledger.reserve(Size(10, None), None)
    assert isinstance(third, int)
    assert ledger.reserve(Size(0, Tokens(output=1)), None) is Verdict.WAIT, "it reserves all that is left"


@pytest.mark.parametrize("size", [Size(10, None), Size(10, Tokens(input=40, output=900))])
@pytest.mark.parametrize("allowance", [Allowance(tokens=100), Allowance(amount=Decimal(1), currency="USD")])
def test_an_answer_that_says_nothing_counts_its_reservation(size: Size, allowance: Allowance) -> None:
    ledger = Ledger(allowance)
    number = ledger.reserve(size, _cents)
    assert isinstance(number, int)
    ledger.charge_reserved(number, "m", Tokens(), _cents)
    assert ledger.spent == allowance.value == allowance.spent(ledger.usage)
    assert ledger.reserve(Size(0, Tokens()), _cents) is Verdict.EXHAUSTED


def test_more_tokens_than_a_status_can_hold_are_counted_as_the_most() -> None:
    ledger = Ledger(Allowance(tokens=2**53))
    number = ledger.reserve(Size(10, None), None)
    assert isinstance(number, int)
    ledger.charge(number, "m", Tokens(input=2**60, output=3), None)
    assert (ledger.usage.input_tokens, ledger.usage.output_tokens) == (2**53, 3)
    assert ledger.reserve(Size(1, None), None) is Verdict.EXHAUSTED


def test_the_dearest_of_several_models_is_the_price() -> None:
    assert dearest([]) is None
    assert dearest([None, _cents]) is _cents
    both = dearest([_cents, lambda tokens: Money(Decimal(tokens.output), "USD")])
    assert both is not None
    assert both(Tokens(input=100)).amount == 1
    assert both(Tokens(output=100)).amount == 100


def test_the_longest_answer_is_that_of_the_public_list() -> None:
    assert longest_answer("gpt-5", "https://api.openai.com/v1") == 400_000
    assert longest_answer("gpt-5", "http://localhost:4000/v1") is None
    assert longest_answer("unheard-of", "https://api.openai.com/v1") is None


def test_sound_and_tiers_have_their_own_price() -> None:
    google = pricing_of("gemini-2.5-flash", "https://generativelanguage.googleapis.com", {})
    assert google is not None
    million = 1_000_000
    assert google(Tokens(input=million)).amount == Decimal("0.3")
    assert google(Tokens(input=million, input_audio=million)).amount == Decimal(1)
    openai = pricing_of("gpt-5", "https://api.openai.com/v1", {})
    assert openai is not None
    assert openai(Tokens(output=million, mode="priority")).amount == 2 * openai(Tokens(output=million)).amount
    for odd in (
        Tokens(input=5, cache_read=9, cache_write=9, cache_write_1h=99, input_audio=9, cache_audio=99),
        Tokens(input=5, input_audio=5, cache_read=5),
        Tokens(output=5, output_audio=9),
    ):
        assert google(odd).amount >= 0, "no number of a provider breaks the count"


def test_a_configured_price_comes_before_the_public_one_and_counts_the_cache() -> None:
    anthropic = "https://api.anthropic.com"
    plain = pricing_of("claude-sonnet-4-5", anthropic, {})
    assert plain is not None
    assert plain(Tokens(input=1_000, output=1_000)) == Money(Decimal("0.018"), "USD")
    assert plain(Tokens(input=1_000, cache_read=1_000)).amount == Decimal("0.0003")
    assert plain(Tokens(input=1_000, cache_write=1_000)).amount == Decimal("0.00375")
    assert plain(Tokens(input=1_000, cache_write=1_000, cache_write_1h=1_000)).amount == Decimal("0.006")
    assert pricing_of("unheard-of", anthropic, {}) is None
    assert pricing_of("gpt-5", "http://localhost:4000/v1", {}) is None, "a machine of one's own"
