"""The termination message: it fits 4 KiB whatever is in it, and nothing but version 1 is believed."""

import json

import pytest
from coding_agent_core.platforms.text import last_lines
from coding_agent_core.task.attempts import MAX_MESSAGE_BYTES, MAX_TAIL, Outcome
from coding_agent_core.task.egress import Denial
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import MAX_MODELS, Cost, ModelUsage, Usage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

USAGE = Usage(requests=3, input_tokens=1200, output_tokens=80, cost=Cost(amount="0.0123", currency="USD"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9_000)


FULL = Outcome(
    reason=Reason.MODEL_UNAVAILABLE,
    message="The model is down.",
    branch="coding-agent/issue-7",
    usage=USAGE,
    transcript="s3://bucket/transcripts/github/7/run-1/attempt-1.jsonl",
    transcript_url="https://logs.example/7",
)


def full(**fields: object) -> Outcome:
    return FULL.model_copy(update=fields)


def through(outcome: Outcome) -> Outcome:
    """As the operator reads it."""
    text = outcome.to_termination_message()
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    read = Outcome.from_termination_message(text)
    assert read is not None
    return read


def test_what_is_written_is_read() -> None:
    outcome = full(summary="Fixed.", tail="- called run_command\n  gave: ok", retry_after=3.5)
    assert through(outcome) == outcome
    newer = json.loads(outcome.to_termination_message()) | {"mood": "good"}
    assert Outcome.from_termination_message(json.dumps(newer)) == outcome


@settings(max_examples=40)
@given(TEXT, TEXT, st.text(max_size=MAX_TAIL).map(lambda text: last_lines(text, MAX_TAIL)))
def test_it_always_fits_and_keeps_the_facts(message: str, summary: str, tail: str) -> None:
    read = through(full(message=message, summary=summary, tail=tail))
    assert (read.reason, read.usage, read.branch) == (FULL.reason, USAGE, FULL.branch)
    assert read.transcript is not None
    assert read.message.replace("\n", " ").isprintable()
    assert len(read.message) <= 1024, "a status holds no more"


def test_the_tail_gives_way_before_the_words_for_the_person() -> None:
    steps = "\n".join(f"step {n}" for n in range(200))
    read = through(full(summary="s" * 2_500, tail=steps))
    assert read.summary == "s" * 2_500
    assert read.tail.startswith("…")
    assert read.tail.endswith("step 199"), "the newest steps are the ones that are kept"


VALID = json.loads(full(retry_after=1).to_termination_message())


@pytest.mark.parametrize(
    "changed",
    [
        *({"version": 2}, {"version": "1"}, {"reason": "Fabulous"}, {"message": None}, {"retry_after": -5}),
        *({"usage": {"requests": -1}}, {"usage": {"requests": 10**400}}, {"retry_after": float("inf")}),
        *({"usage": {"requests": 1, "cost": "cheap"}}, {"retry_after": float("nan")}),
        *({"transcript_url": "javascript:alert(1)"}, {"tail": "x" * (MAX_TAIL + 1)}, {"message": "\ud800"}),
        {"answered": 12},  # no status can hold a time without its zone
    ],
    ids=str,
)
def test_what_is_no_outcome_is_not_believed(changed: dict[str, object]) -> None:
    assert Outcome.from_termination_message(json.dumps(VALID | changed)) is None


def test_what_is_no_json_of_ours_is_not_believed() -> None:
    for text in ("", "no json", "[]", "{}", json.dumps(VALID)[:-1], "[" * 100_000, '{"a":1,' * 50_000):
        assert Outcome.from_termination_message(text) is None


@pytest.mark.parametrize(
    ("text", "length", "kept"),
    [
        ("one\ntwo", 100, "one\ntwo"),
        ("  one\n\n", 100, "one"),
        ("first line\nsecond\nthird", 14, "…second\nthird"),
        ("abcdefghij", 5, "…ghij"),
        ("red \x1b[31malert\x1b[0m\x07\r\n\u202eevil", 100, "red [31malert[0m\nevil"),
        ("a\tb\u3000c", 10, "a b c"),
        ("x\ud800y", 10, "xy"),
        ("日本語のログ", 4, "…のログ"),
    ],
)
def test_the_last_lines(text: str, length: int, kept: str) -> None:
    assert last_lines(text, length) == kept
    assert len(last_lines(text, length)) <= length


def test_denials_are_hosts_and_give_way_to_what_matters_more() -> None:
    denied = tuple(Denial(host=f"{'a' * 200}{number}.test", count=number) for number in range(1, 11))
    outcome = Outcome(reason=Reason.COMPLETED, message="m" * 500, denied=denied)
    assert through(outcome) == outcome
    read = through(outcome.model_copy(update={"branch": "b" * 2000, "change_url": "u" * 1500}))
    assert (read.denied, read.branch) == ((), "b" * 255), "a status holds no more"
    for wrong in ("`x`", "a b", "<a>", "a/b", ""):
        with pytest.raises(ValidationError):
            Denial(host=wrong, count=1)


def _of(model: str | None, amount: str | None = None, requests: int = 1) -> Usage:
    cost = None if amount is None else Cost(amount=amount, currency="USD")
    return Usage(requests=requests, input_tokens=10, output_tokens=2, cost=cost, model=model)


def test_a_usage_of_several_models_names_each_and_the_dearest_first() -> None:
    used = _of("small", "0.10").plus(_of("large", "0.30")).plus(_of("small", "0.05")).plus(Usage())
    assert used.models is not None
    assert [(one.model, one.requests, str(one.cost)) for one in used.models] == [
        ("large", 1, "0.30 USD"),
        ("small", 2, "0.15 USD"),
    ]
    assert (used.model, used.requests, str(used.cost)) == (None, 3, "0.45 USD")
    assert _of("small").plus(_of("small")).models is None, "the usage itself says it"
    assert _of(None).plus(_of("small")).by_model[0].model in ("unknown", "small")


def test_the_cheapest_of_many_models_stand_together() -> None:
    used = Usage()
    for number in range(20):
        used = used.plus(_of(f"m{number}", f"0.{number + 10}"))
    assert used.models is not None
    assert [one.model for one in used.models] == [f"m{19 - n}" for n in range(MAX_MODELS - 1)] + ["other"]
    assert sum(one.requests for one in used.models) == used.requests == 20


def test_many_long_names_of_models_give_way() -> None:
    models = tuple(ModelUsage(model=f"{n}" * 256, requests=1) for n in range(MAX_MODELS))
    outcome = full(usage=USAGE.model_copy(update={"models": models}), branch="b" * 250)
    few = through(outcome)
    assert (few.usage.models, few.transcript) == (models, outcome.transcript), "that fits"
    wide = tuple(ModelUsage(model=f"{n}" + "ü" * 255, requests=1) for n in range(MAX_MODELS))
    outcome = full(usage=USAGE.model_copy(update={"models": wide}), message="m" * 900)
    assert through(outcome).usage == USAGE
