"""The parts of an answer that all wire formats share, and the interface of a wire format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from coding_agent_testbed.model.conversation import Conversation
from coding_agent_testbed.model.script import Failure

_PIECES = 3
"""The number of deltas into which a streamed text is cut."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer.

    Attributes:
        input: of the request, those read from and written to the cache included.
    """

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True)
class CallMade:
    """
    Attributes:
        arguments: JSON, unless the script wants it broken.
    """

    tool: str
    arguments: str

    @property
    def parsed(self) -> dict[str, Any]:
        """Return the arguments as an object, for wire formats that need one; broken ones are lost there."""
        try:
            value = json.loads(self.arguments)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Answer:
    """
    Attributes:
        position: how many answers the conversation had before.
        finish: as OpenAI's Chat Completions name it: `stop`, `tool_calls`, `length`, `content_filter`.
    """

    position: int
    model: str
    text: str
    calls: tuple[CallMade, ...]
    finish: str
    usage: Usage


class WireFormat(Protocol):
    """The form of requests, answers and errors of one API."""

    name: str

    def read(self, body: Mapping[str, Any]) -> Conversation:
        """Return the conversation of a request.

        Raises:
            ValueError: the request is malformed; the message says how.
        """

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a whole answer."""

    def events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield the same as server-sent events.

        Args:
            body: the request; some formats let it choose what the stream tells.
        """

    def failure(self, error: Failure) -> dict[str, Any]:
        """Return the body of an error."""


def call_id(at: int, number: int, prefix: str = "call") -> str:
    """Return the id of a call in the answer at this position."""
    return f"{prefix}_{at}_{number}"


def pieces(text: str) -> Iterator[str]:
    """Return a text in a few pieces; an empty text has none."""
    size = max(1, -(-len(text) // _PIECES))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def event(data: Mapping[str, Any], *, name: str | None = None) -> bytes:
    """Return a server-sent event."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json.dumps(data).encode() + b"\n\n"


def entries(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return a list of objects in a request.

    Raises:
        ValueError: it is missing or something else.
    """
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise ValueError(f"`{key}` is missing or not a list of objects")
    return value


def text_of(content: Any) -> str:
    """Return a text that is given as a string, or as parts that hold texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        inner = content.get("text", content.get("content", content.get("output")))
        return text_of(inner)
    if isinstance(content, list):
        return "\n".join(filter(None, map(text_of, content)))
    return ""
