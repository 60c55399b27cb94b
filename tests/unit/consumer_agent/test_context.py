"""Compression keeps the task, the newest messages and every pair of call and result."""

from functools import partial

import pytest
from coding_agent_consumer.agent import context
from coding_agent_consumer.agent.failures import CallResult, CallStatus, Round, reached
from coding_agent_core.task.reasons import Reason
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage


def conversation(rounds: int, *, text: str = "result", calls: int = 1) -> list[ModelMessage]:
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart("The task.")])]
    for number in range(rounds):
        ids = [f"call-{number}-{entry}" for entry in range(calls)]
        messages.append(
            ModelResponse(
                parts=[TextPart(f"step {number}"), *(ToolCallPart("read_file", {"path": i}, i) for i in ids)]
            )
        )
        messages.append(ModelRequest(parts=[ToolReturnPart("read_file", f"{text} {number}", i) for i in ids]))
    return messages


def pairs(messages: list[ModelMessage]) -> tuple[set[str], set[str]]:
    calls = {p.tool_call_id for m in messages for p in m.parts if isinstance(p, ToolCallPart)}
    results = {p.tool_call_id for m in messages for p in m.parts if isinstance(p, ToolReturnPart)}
    return calls, results


@given(rounds=st.integers(0, 12), keep=st.integers(1, 12), calls=st.integers(1, 3))
def test_no_call_is_parted_from_its_result(rounds: int, keep: int, calls: int) -> None:
    messages = conversation(rounds, calls=calls)
    parts = context.split(messages, keep)
    if parts is None:
        assert len(messages) <= keep + 2, "too short to summarize"
        return
    assert [parts.task, *parts.older, *parts.recent] == messages
    assert keep <= len(parts.recent) <= keep + 1
    after = context.merged(parts, "a summary")
    given_calls, results = pairs(after)
    assert given_calls == results
    assert isinstance(after[0], ModelRequest)
    assert isinstance(after[1], ModelResponse)
    assert isinstance(after[-1], ModelRequest)


def test_the_task_stays_word_by_word_and_a_second_summary_replaces_the_first() -> None:
    first = context.split(conversation(4), keep=2)
    assert first is not None
    once = context.merged(first, "summary one")
    second = context.split([*once, *conversation(3)[1:]], keep=2)
    assert second is not None
    assert "summary one" in context.to_summarize(second, 10_000)
    assert "summary one" in context.plain_summary(second, 10_000)
    twice = context.merged(second, "summary two")
    text = [part.content for part in twice[0].parts if isinstance(part, UserPromptPart)]
    assert text == ["The task.", context.SUMMARY_HEAD + "summary two"]


@pytest.mark.parametrize("budget", [4000, 1000])
def test_long_results_are_cut_until_it_fits(budget: int) -> None:
    messages = conversation(4, text="x" * 20_000)
    after = context.shorten(messages, budget)
    assert context.estimate(after) <= budget
    assert pairs(after) == pairs(messages)
    assert "cut to save room" in str(after[2].parts[0])
    assert context.shorten(messages, 10**6) == messages, "it fits"


def test_the_size_is_what_the_service_counted_and_an_estimate_of_the_rest() -> None:
    messages = conversation(1)
    assert context.size(messages, 100) == context.estimate(messages) + 100
    answer = messages[1]
    assert isinstance(answer, ModelResponse)
    answer.usage = RequestUsage(input_tokens=5000, output_tokens=70)
    assert context.size(messages, 100) == 5070 + context.estimate(messages[2:])


def test_a_character_beyond_ascii_counts_as_a_token() -> None:
    assert context.estimate_text("a" * 400) == 100
    assert context.estimate_text("課題" * 100) == 200


def test_the_request_for_a_summary_is_bounded() -> None:
    parts = context.split(conversation(200, text="y" * 3000), keep=5)
    assert parts is not None
    assert context.estimate_text(context.to_summarize(parts, 4000)) < 4500


end_of = partial(reached, tool_errors=3, setting="llm.openai")


def ok(arguments: str = "{}", text: str = "fine", tool: str = "read_file") -> Round:
    return Round((CallResult(tool, arguments, CallStatus.OK, text),), usable=True)


def failed(arguments: str = "{}", tool: str = "read_file") -> Round:
    return Round((CallResult(tool, arguments, CallStatus.FAILED, "No such file."),), usable=True)


def malformed(number: int = 0) -> Round:
    return Round((CallResult("read_file", str(number), CallStatus.MALFORMED, "bad"),), usable=False)


NO_CALL = Round((), usable=False)
CUT = Round((), usable=False, cut=True)
VARIED = [ok(str(number)) for number in range(30)]


CASES: dict[str, tuple[list[Round], Reason | None]] = {
    "nothing done yet": ([], None),
    "different steps may go on for ever": (VARIED, None),
    "two errors of a tool": ([failed("1"), failed("2")], None),
    "three in a row": ([failed("1"), failed("2"), failed("3")], Reason.TOOL_FAILING),
    "a success in between": ([failed("1"), failed("2"), ok("3"), failed("4"), failed("5")], None),
    "another tool's success does not count": (
        [failed("1"), ok("a", tool="list_files"), failed("2"), ok("b", tool="list_files"), failed("3")],
        Reason.TOOL_FAILING,
    ),
    "three tools once each": ([failed("1", "a"), failed("2", "b"), failed("3", "c")], None),
    "four malformed answers": ([malformed(n) for n in range(4)], None),
    "five malformed answers": ([malformed(n) for n in range(5)], Reason.MODEL_MALFORMED),
    "five answers without a call": ([NO_CALL] * 5, Reason.MODEL_MALFORMED),
    "five answers that were cut off": ([CUT] * 5, Reason.MODEL_MALFORMED),
    "a usable answer in between": ([*[NO_CALL] * 4, ok(), NO_CALL], None),
    "the same four times": ([*VARIED, *[ok("same")] * 4], None),
    "the same five times": ([*VARIED, *[ok("same")] * 5], Reason.LIMIT_REACHED),
    "there and back, five times": ([ok("a"), ok("b")] * 5, Reason.LIMIT_REACHED),
    "a cycle of four": ([ok("a"), ok("b"), ok("c"), ok("d")] * 5, Reason.LIMIT_REACHED),
    "times make no difference": ([ok("t", f"5 tests in 0.00{n}s") for n in range(5)], Reason.LIMIT_REACHED),
    "another result is progress": ([ok("t", f"{n} failures") for n in range(5)], None),
}


@pytest.mark.parametrize(("rounds", "reason"), CASES.values(), ids=CASES)
def test_when_to_stop(rounds: list[Round], reason: Reason | None) -> None:
    stop = end_of(rounds)
    assert (stop.reason if stop else None) is reason


def test_answers_that_were_cut_off_name_the_setting_to_raise() -> None:
    stop = end_of([CUT] * 5)
    assert stop is not None
    assert stop.message == "The model's answers were cut off 5 times in a row; raise llm.openai.max_token."
