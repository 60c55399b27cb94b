"""Where a conversation stands in its script, and which script plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coding_agent_model.chat import ChatCompletions
from coding_agent_model.conversation import Conversation
from coding_agent_model.script import Script, choose, load_scripts


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


def test_failures_stand_before_the_answer_that_follows_them() -> None:
    script = Script.model_validate(
        {"turns": [{"error": {"status": 429}}, {"text": "a"}, {"error": {}}, {"error": {}}, {"text": "b"}]}
    )
    assert [index for index, _ in script.upcoming(0)[0]] == [0]
    assert script.upcoming(0)[1] == (1, script.turns[1])
    assert [index for index, _ in script.upcoming(1)[0]] == [2, 3]
    assert script.upcoming(2) == ([], None)


def test_a_looping_script_repeats_its_last_turn() -> None:
    script = Script.model_validate({"turns": [{"text": "a"}, {"text": "b"}], "loop": True})
    assert script.upcoming(9)[1] == (1, script.turns[1])


def test_the_first_user_message_chooses_the_script() -> None:
    first = Script.model_validate({"name": "1", "match": "price", "turns": [{"text": "a"}]})
    other = Script.model_validate({"name": "2", "match": "", "turns": [{"text": "a"}]})
    assert choose([first, other], read({"role": "system", "content": "price"}, user("hello"))) is other
    assert choose([first, other], read(user("the price"))) is first
    assert choose([first], read(user("hello"))) is None


def test_the_turns_act_on_what_the_script_reads() -> None:
    script = Script.model_validate(
        {
            "match": r"line (?P<line>\d+)",
            "turns": [
                {"text": "${line}", "calls": [{"tool": "run", "arguments": {"a": ["${line}p", "$HOME"]}}]}
            ],
        }
    )
    turn = script.turns[0].filled(script.read(read(user("Look at line 12."))))
    assert (turn.text, turn.calls[0].arguments) == ("12", {"a": ["12p", "$HOME"]})


def test_a_file_that_is_no_script_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("turns: [{txt: a}]")
    with pytest.raises(ValueError, match=r"bad\.yaml: not a script"):
        load_scripts(tmp_path)


def test_the_demos_scripts_load() -> None:
    scripts = load_scripts(Path(__file__).parents[3] / "dev/model/scripts")
    assert "pricing" in [script.name for script in scripts]
