"""Where a conversation stands in its script, which script plays, and what its turns become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coding_agent_model.chat import ChatCompletions
from coding_agent_model.conversation import Conversation
from coding_agent_model.script import Script, choose, load_scripts

from tests.fixtures.model import script


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def read(*messages: dict[str, Any]) -> Conversation:
    return ChatCompletions().read({"messages": list(messages)})


def assistant(*ids: str) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": entry} for entry in ids]}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("a")], 0),
        ([user("a"), assistant("call_0_0")], 1),
        ([user("a"), assistant("call_0_0"), assistant("call_1_0", "call_1_1")], 2),
        ([user("a"), assistant("call_6_0")], 7),
        ([user("a"), assistant()], 1),
        ([user("a"), assistant("call_2_0"), assistant()], 4),
    ],
    ids=["start", "one", "two", "older ones left out", "a text", "a text after a call"],
)
def test_the_position_is_read_from_the_conversation(messages: list[dict[str, Any]], expected: int) -> None:
    assert read(*messages).position == expected


def test_failures_stand_before_the_answer_that_follows_them_and_a_loop_repeats_the_last_turn() -> None:
    failing = script({"error": {"status": 429}}, {"text": "a"}, {"error": {}}, {"error": {}}, {"text": "b"})
    assert [index for index, _ in failing.upcoming(0)[0]] == [0]
    assert failing.upcoming(0)[1] == (1, failing.turns[1])
    assert [index for index, _ in failing.upcoming(1)[0]] == [2, 3]
    assert failing.upcoming(2) == ([], None)
    looping = script({"text": "a"}, {"text": "b"}, loop=True)
    assert looping.upcoming(9)[1] == (1, looping.turns[1])


def test_the_first_user_message_chooses_the_script_and_fills_its_turns() -> None:
    turn = {"text": "${line}", "calls": [{"tool": "run", "arguments": {"a": ["${line}p", "$HOME"]}}]}
    first, other = script(turn, match=r"line (?P<line>\d+)"), script({"text": "a"})
    assert choose([first, other], read({"role": "system", "content": "line 1"}, user("hello"))) is other
    asked = read(user("Look at line 12."))
    assert choose([first, other], asked) is first
    assert choose([first], read(user("hello"))) is None
    filled = first.turns[0].filled(first.read(asked))
    assert (filled.text, filled.calls[0].arguments) == ("12", {"a": ["12p", "$HOME"]})


def test_the_demos_scripts_load_and_a_file_that_is_no_script_is_named(tmp_path: Path) -> None:
    found: list[Script] = load_scripts(Path(__file__).parents[3] / "dev/model/scripts")
    assert "pricing" in [entry.name for entry in found]
    (tmp_path / "bad.yaml").write_text("turns: [{txt: a}]")
    with pytest.raises(ValueError, match=r"bad\.yaml: not a script"):
        load_scripts(tmp_path)
