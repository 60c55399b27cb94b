"""Compression keeps the task, the newest messages and every pair of call and result."""

import pytest
from coding_agent_consumer.agent import context
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
