"""Scripts: the answers of the model, turn by turn. A script works with every wire format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from coding_agent_testbed.model.conversation import Conversation


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Call(_Strict):
    """A call of a tool: either `tool`, or `run`.

    Attributes:
        raw_arguments: sent as they stand instead of `arguments`, e.g. broken JSON.
        run: a shell command, run by whichever shell tool the request offers.
    """

    tool: str = ""
    arguments: dict[str, Any] = {}
    raw_arguments: str | None = None
    run: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Call:
        if bool(self.tool) == (self.run is not None):
            raise ValueError("give either `tool` or `run`")
        return self


class Failure(_Strict):
    """An HTTP error, which each wire format writes in its own form.

    Attributes:
        code: OpenAI's, like `type`; the other formats name an error by its status.
        times: how often a conversation meets it before its next turn; 0: forever.
    """

    status: int = 500
    retry_after: float | None = None
    code: str | None = None
    type: str = "server_error"
    message: str = "The scripted server failed as told."
    times: int = Field(default=1, ge=0)


class Turn(_Strict):
    """An answer, or a failure in its place.

    Attributes:
        expect: regular expression that the last message of the request must match, else 409 naming the turn.
        error: this turn is a failure; the turn after it answers.
        cut: how often the answer is cut off in its middle and the connection closed; -1: forever.
        stall: how often the answer stops in its middle with the connection open; -1: forever.
        delay_ms: milliseconds before the answer.
        prompt_tokens: tokens of the request, reported instead of an estimate.
        cache_read_tokens: of them, those that the cache had.
        cache_write_tokens: of them, those that the cache took in.
        output_tokens: reported instead of an estimate.
        finish_reason: reported instead of the natural one, e.g. `length`.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    expect: str | None = None
    error: Failure | None = None
    cut: int = 0
    stall: int = 0
    delay_ms: int = Field(default=0, ge=0)
    prompt_tokens: int | None = None
    cache_read_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    output_tokens: int | None = None
    finish_reason: str | None = None

    def filled(self, values: Mapping[str, str]) -> Turn:
        """Return the turn with each `${name}` in its text and its calls' arguments replaced."""
        if not values:
            return self
        calls = tuple(
            call.model_copy(
                update={"arguments": _filled(call.arguments, values), "run": _filled(call.run, values)}
            )
            for call in self.calls
        )
        return self.model_copy(update={"text": _filled(self.text, values), "calls": calls})

    @field_validator("expect")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            re.compile(value)
        return value


class Script(_Strict):
    """The answers to one kind of conversation.

    Attributes:
        match: regular expression looked for in what the user says first; empty matches all. What its named
            groups find replaces `${name}` in the turns: the model acts on what it reads.
        latest: regular expression looked for in what was said since the last answer, e.g. a request for a
            summary in the middle of another script; empty matches all.
        loop: repeat the last turn forever instead of refusing a request beyond it.
    """

    name: str = "script"
    match: str = ""
    latest: str = ""
    turns: tuple[Turn, ...] = Field(min_length=1)
    loop: bool = False

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Script:
        re.compile(self.match)
        re.compile(self.latest)
        if self.turns[-1].error is not None and self.turns[-1].error.times:
            raise ValueError("the last turn is a passing error: an answer must follow it")
        return self

    @property
    def runs_commands(self) -> bool:
        """Whether it works for agents whose tools it does not know by name."""
        return any(call.run is not None for turn in self.turns for call in turn.calls)

    def read(self, conversation: Conversation) -> dict[str, str]:
        """Return the texts that the named groups of `match` find."""
        found = re.search(self.match, conversation.opening)
        return {name: value or "" for name, value in found.groupdict().items()} if found else {}

    def upcoming(self, position: int) -> tuple[list[tuple[int, Failure]], tuple[int, Turn] | None]:
        """Return the failures before the answer at this position, and that answer with its index.

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
    """Return all scripts (`*.yaml`) of a folder by name; scripts that match every conversation come last.

    Raises:
        ValueError: a file is not a script; the message names it.
    """
    scripts = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            scripts.append(Script(**{"name": path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))}))
        except (ValidationError, TypeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not a script: {error}") from error
    return sorted(scripts, key=lambda script: not script.match)


def choose(scripts: Sequence[Script], conversation: Conversation) -> Script | None:
    """Return the first script that matches the conversation."""
    opening, latest = conversation.opening, conversation.latest
    return next(
        (one for one in scripts if re.search(one.match, opening) and re.search(one.latest, latest)), None
    )
