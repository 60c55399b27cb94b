"""What an answer used, read from its bytes in whichever pieces they come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from coding_agent_consumer.gateway import wire
from coding_agent_consumer.gateway.ledger import Tokens
from coding_agent_consumer.gateway.wire import Meter, Operation

TEXT = {"choices": [{"delta": {"content": "x" * 300}}], "usage": None}
LAST = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 90}}


def _counted(events: list[dict[str, Any]], separators: tuple[str, str], size: int) -> Tokens:
    meter = Meter(Operation.CHAT_COMPLETIONS, "text/event-stream", "")
    data = "".join(f"data: {json.dumps(event, separators=separators)}\n\n" for event in events).encode()
    for at in range(0, len(data), size):
        meter.feed(data[at : at + size])
    return meter.end(estimated_input=50)


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")], ids=["spaced", "compact"])
@pytest.mark.parametrize("size", [7, 10_000_000])
def test_the_usage_is_what_the_answer_says_or_else_its_text(separators: tuple[str, str], size: int) -> None:
    assert _counted([TEXT, TEXT, LAST], separators, size) == Tokens(7, 90)
    assert _counted([TEXT, TEXT], separators, size) == Tokens(50, 200)


def test_a_long_answer_is_not_held_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(Meter, "_read", lambda self, text: read.append(text))
    monkeypatch.setattr(wire, "_HELD_LIMIT", 2_000)
    meter = Meter(Operation.CHAT_COMPLETIONS, "text/event-stream", "")
    line = b"data: " + json.dumps(TEXT).encode() + b"\n\n"
    for _ in range(4):
        meter.feed(line)
    assert read == [], "nobody needs it yet"
    for _ in range(4):
        meter.feed(line)
    assert len(read) >= 6


def test_text_about_usage_is_not_usage() -> None:
    text = {"choices": [{"delta": {"content": '"usage": {"completion_tokens": 1}'}}]}
    assert _counted([text, LAST], (", ", ": "), 10_000) == Tokens(7, 90)
