"""The termination message: it fits 4 KiB whatever is in it, and nothing but version 1 is believed."""

from __future__ import annotations

import json

import pytest
from coding_agent_core.attempts import MAX_MESSAGE_BYTES, MAX_TAIL, Outcome
from coding_agent_core.egress import Denial
from coding_agent_core.reasons import Reason
from coding_agent_core.text import last_lines
from coding_agent_core.usage import MAX_MODELS, Cost, ModelUsage, Usage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

USAGE = Usage(requests=3, input_tokens=1200, output_tokens=80, cost=Cost(amount="0.0123", currency="USD"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9_000)


def full(**fields: object) -> Outcome:
    plain: dict[str, object] = {
        "reason": Reason.MODEL_UNAVAILABLE,
        "message": "The model is down.",
        "branch": "coding-agent/issue-7",
        "usage": USAGE,
        "transcript": "s3://bucket/transcripts/github/7/run-1/attempt-1.jsonl",
        "transcript_url": "https://logs.example/7",
    }
    return Outcome.model_validate(plain | fields)


def test_what_is_written_is_read() -> None:
    outcome = full(summary="Fixed.", tail="- called run_command\n  gave: ok", retry_after=3.5)
    assert Outcome.from_termination_message(outcome.to_termination_message()) == outcome


@settings(max_examples=60)
@given(
    message=TEXT, summary=TEXT, tail=st.text(max_size=MAX_TAIL).map(lambda text: last_lines(text, MAX_TAIL))
)
def test_it_always_fits_and_keeps_the_facts(message: str, summary: str, tail: str) -> None:
    text = full(message=message, summary=summary, tail=tail).to_termination_message()
    assert len(text.encode()) <= MAX_MESSAGE_BYTES
    read = Outcome.from_termination_message(text)
    assert read is not None
    assert (read.reason, read.usage, read.branch) == (Reason.MODEL_UNAVAILABLE, USAGE, "coding-agent/issue-7")
    assert read.transcript is not None


def test_the_tail_gives_way_before_the_words_for_the_person() -> None:
    steps = "\n".join(f"step {n}" for n in range(200))
    read = Outcome.from_termination_message(full(summary="s" * 2_500, tail=steps).to_termination_message())
    assert read is not None
    assert read.summary == "s" * 2_500
    assert read.tail.startswith("…")
    assert read.tail.endswith("step 199"), "the newest steps are the ones that are kept"


VALID = json.loads(full(retry_after=1).to_termination_message())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "null",
        "[]",
        "{}",
        json.dumps(VALID)[:-1],
        json.dumps(VALID | {"version": 2}),
        json.dumps(VALID | {"version": "1"}),
        json.dumps(VALID | {"reason": "Fabulous"}),
        json.dumps(VALID | {"usage": {"requests": -1}}),
        json.dumps(VALID | {"usage": {"requests": 10**400}}),
        json.dumps(VALID | {"usage": {"requests": 1, "cost": "cheap"}}),
        json.dumps(VALID | {"retry_after": float("inf")}),
        json.dumps(VALID | {"retry_after": float("nan")}),
        json.dumps(VALID | {"retry_after": -5}),
        json.dumps(VALID | {"transcript_url": "javascript:alert(1)"}),
        json.dumps(VALID | {"tail": "x" * (MAX_TAIL + 1)}),
        json.dumps(VALID | {"message": None}),
        '{"version": 1, "reason": "Completed", "message": "\\ud800"}',
        "[" * 100_000,
        '{"version":1,' * 50_000,
    ],
)
def test_what_is_no_outcome_is_not_believed(text: str) -> None:
    assert Outcome.from_termination_message(text) is None


def test_fields_of_a_newer_release_are_passed_over() -> None:
    newer = VALID | {"mood": "good", "usage": VALID["usage"] | {"joules": 7}}
    assert Outcome.from_termination_message(json.dumps(newer)) == full(retry_after=1)


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


def test_what_is_read_has_no_control_characters_and_fits_a_status() -> None:
    left = Outcome(reason=Reason.COMPLETED, message="\x1b[31m" + "m" * 2000, tail="\x07end")
    read = Outcome.from_termination_message(left.model_dump_json())
    assert read is not None
    assert read.message.isprintable()
    assert (len(read.message), read.tail) == (1024, "end")


def test_denials_are_hosts_and_give_way_to_what_matters_more() -> None:
    denied = tuple(Denial(host=f"{'a' * 200}{number}.test", count=number) for number in range(1, 11))
    outcome = Outcome(reason=Reason.COMPLETED, message="m" * 500, denied=denied)
    assert Outcome.from_termination_message(outcome.to_termination_message()) == outcome
    crowded = outcome.model_copy(update={"branch": "b" * 2000, "change_url": "u" * 1500})
    read = Outcome.from_termination_message(crowded.to_termination_message())
    assert read is not None
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
    assert sum(one.input_tokens for one in used.models) == used.input_tokens == 200


def test_many_long_names_of_models_give_way() -> None:
    models = tuple(ModelUsage(model=f"{n}" * 256, requests=1) for n in range(MAX_MODELS))
    outcome = full(usage=USAGE.model_copy(update={"models": models}), branch="b" * 250)
    few = Outcome.from_termination_message(outcome.to_termination_message())
    assert few is not None
    assert (few.usage.models, few.transcript) == (models, outcome.transcript), "that fits"
    wide = tuple(ModelUsage(model=f"{n}" + "ü" * 255, requests=1) for n in range(MAX_MODELS))
    outcome = full(usage=USAGE.model_copy(update={"models": wide}), message="m" * 900)
    cut = Outcome.from_termination_message(outcome.to_termination_message())
    assert cut is not None
    assert cut.usage == USAGE
