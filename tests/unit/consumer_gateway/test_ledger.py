"""An allowance is never exceeded by more than one answer, whatever runs in parallel."""

from __future__ import annotations

from decimal import Decimal

from coding_agent_consumer.gateway.ledger import Ledger, Money, Pricing, Tokens, Verdict, pricing_of
from coding_agent_core.usage import Allowance
from hypothesis import given
from hypothesis import strategies as st

CALLS = st.lists(
    st.tuples(
        st.sampled_from(["start", "end"]),
        st.integers(min_value=0, max_value=60),
        st.integers(min_value=1, max_value=60),
        st.floats(min_value=0, max_value=1),
        st.integers(min_value=0, max_value=50),
    ),
    max_size=80,
)
"""Start or end a call; its input and longest output, the share of that which it uses, and which call ends."""


def _cents(tokens: Tokens) -> Money:
    return Money(Decimal(tokens.input + 3 * tokens.output) / 100, "USD")


@given(
    calls=CALLS,
    limit=st.integers(min_value=0, max_value=400),
    priced=st.sampled_from([None, _cents]),
)
def test_parallel_calls_exceed_it_by_one_answer_at_most(
    calls: list[tuple[str, int, int, float, int]], limit: int, priced: Pricing | None
) -> None:
    allowance = (
        Allowance(tokens=limit) if priced is None else Allowance(amount=Decimal(limit) / 100, currency="USD")
    )
    ledger = Ledger(allowance)
    running: dict[int, tuple[Tokens, Decimal, bool]] = {}
    bound, counted = allowance.value, Decimal(0)

    def value(tokens: Tokens) -> Decimal:
        return Decimal(tokens.total) if priced is None else priced(tokens).amount

    for kind, sent, longest, share, which in calls:
        if kind == "start":
            estimated = Tokens(input=sent, output=longest)
            number = ledger.reserve(estimated, priced)
            if number is Verdict.EXHAUSTED:
                assert ledger.spent + value(Tokens(input=sent)) > allowance.value or ledger.spent >= bound
            elif not isinstance(number, Verdict):
                alone = not running
                running[number] = (Tokens(input=sent, output=int(longest * share)), value(estimated), alone)
        elif running:
            number = list(running)[which % len(running)]
            used, most, _ = running.pop(number)
            assert value(used) <= most
            ledger.settle(number, "m", used, priced)
            counted += value(used)
        # Only a call that started alone may pass what is left, and only by its own answer.
        under_way = [most for _, most, _ in running.values()]
        assert ledger.spent == counted
        assert ledger.spent <= allowance.value + 240 * (1 if priced is None else Decimal("0.01"))
        if len(under_way) > 1:
            assert ledger.spent + sum(under_way) - max(under_way) <= allowance.value


def test_a_request_waits_only_for_what_others_may_still_use() -> None:
    ledger = Ledger(Allowance(tokens=100))
    first = ledger.reserve(Tokens(input=10, output=60), None)
    assert isinstance(first, int)
    assert ledger.reserve(Tokens(input=10, output=60), None) is Verdict.WAIT
    assert ledger.reserve(Tokens(input=101, output=1), None) is Verdict.EXHAUSTED, "nobody's end helps"
    ledger.settle(first, "m", Tokens(input=10, output=20), None)
    second = ledger.reserve(Tokens(input=10, output=900), None)
    assert isinstance(second, int), "alone it may start: its answer is likely shorter"
    ledger.release(second)
    assert ledger.usage.requests == 1


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
