"""Scripts: what the model says, turn by turn, and where in its script a conversation stands.

Where it stands is read from the conversation itself: the ids of our tool calls carry the turn's number, so
several tasks can play at once, a client may start again, and one that shortens its history is still followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Messages = Sequence[Mapping[str, Any]]
_CALL_ID = re.compile(r"^call_(\d+)_\d+$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Call(_Strict):
    """A call of a tool.

    Attributes:
        raw_arguments: sent as they stand instead of `arguments`, e.g. broken JSON.
    """

    tool: str
    arguments: dict[str, Any] = {}
    raw_arguments: str | None = None


class Failure(_Strict):
    """An HTTP error in OpenAI's shape.

    Attributes:
        times: how often a conversation meets it before its next turn; 0: for ever.
    """

    status: int = 500
    retry_after: float | None = None
    code: str | None = None
    type: str = "server_error"
    message: str = "The scripted server failed as told."
    times: int = Field(default=1, ge=0)


class Turn(_Strict):
    """One answer, or a failure in its place.

    Attributes:
        expect: regular expression that the last message of the request must match, else 409 naming the turn.
        error: this turn is a failure; the turn after it answers.
        cut: how often the answer is cut off in its middle and the connection closed; -1: for ever.
        delay_ms: milliseconds before the answer.
        prompt_tokens: reported instead of an estimate.
        finish_reason: reported instead of the natural one, e.g. `length`.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    expect: str | None = None
    error: Failure | None = None
    cut: int = 0
    delay_ms: int = Field(default=0, ge=0)
    prompt_tokens: int | None = None
    finish_reason: str | None = None

    def filled(self, values: Mapping[str, str]) -> Turn:
        """With each `${name}` in its text and its calls' arguments replaced."""
        if not values:
            return self
        calls = tuple(
            call.model_copy(update={"arguments": _filled(call.arguments, values)}) for call in self.calls
        )
        return self.model_copy(update={"text": _filled(self.text, values), "calls": calls})

    @field_validator("expect")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            re.compile(value)
        return value


class Script(_Strict):
    """What one kind of conversation is answered.

    Attributes:
        match: regular expression looked for in the first user message; empty matches all. What its named
            groups find replaces `${name}` in the turns: the model acts on what it reads.
        loop: repeat the last turn for ever instead of refusing a request beyond it.
    """

    name: str = "script"
    match: str = ""
    turns: tuple[Turn, ...] = Field(min_length=1)
    loop: bool = False

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Script:
        re.compile(self.match)
        if self.turns[-1].error is not None and self.turns[-1].error.times:
            raise ValueError("the last turn is a passing error: an answer must follow it")
        return self

    def read(self, messages: Messages) -> dict[str, str]:
        """What the named groups of `match` find."""
        found = re.search(self.match, first_user_message(messages))
        return {name: value or "" for name, value in found.groupdict().items()} if found else {}

    def upcoming(self, position: int) -> tuple[list[tuple[int, Failure]], tuple[int, Turn] | None]:
        """The failures that stand before the answer of this position, and that answer with its index.

        Args:
            position: number of answers that the conversation has had.

        Returns:
            Failures with their indexes, and the answer; `None` where the script is over.
        """
        answers = [index for index, turn in enumerate(self.turns) if turn.error is None]
        if position < len(answers):
            at = answers[position]
            before = answers[position - 1] if position else -1
        elif self.loop and answers:
            return [], (answers[-1], self.turns[answers[-1]])
        else:
            at, before = len(self.turns), answers[-1] if answers else -1
        failures = [
            (index, error)
            for index in range(before + 1, at)
            if (error := self.turns[index].error) is not None
        ]
        return failures, (at, self.turns[at]) if at < len(self.turns) else None


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(f"${{{name}}}", text)
        return value
    if isinstance(value, dict):
        return {key: _filled(entry, values) for key, entry in value.items()}
    return [_filled(entry, values) for entry in value] if isinstance(value, list) else value


def load_scripts(folder: Path) -> list[Script]:
    """All scripts (`*.yaml`) of a folder, in the order of their names; those that match all come last.

    Raises:
        ValueError: a file is no script; the message names it.
    """
    scripts = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            scripts.append(Script(**{"name": path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))}))
        except (ValidationError, TypeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not a script: {error}") from error
    return sorted(scripts, key=lambda script: not script.match)


def first_user_message(messages: Messages) -> str:
    """Text of the first message of role `user`."""
    return next((text_of(message) for message in messages if message.get("role") == "user"), "")


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text, whether its content is a string or parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def choose(scripts: Sequence[Script], messages: Messages) -> Script | None:
    """The first script that matches the conversation."""
    text = first_user_message(messages)
    return next((script for script in scripts if re.search(script.match, text)), None)


def position(messages: Messages) -> int:
    """How many answers the conversation has had, also where older ones were left out of the request."""
    reached = 0
    for message in messages:
        if message.get("role") != "assistant":
            continue
        ids = [_CALL_ID.match(str(call.get("id", ""))) for call in message.get("tool_calls") or ()]
        known = next((int(found[1]) for found in ids if found), None)
        reached = known + 1 if known is not None else reached + 1
    return reached


def call_id(at: int, number: int) -> str:
    """The id of a call in the answer of this position."""
    return f"call_{at}_{number}"
