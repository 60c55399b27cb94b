"""CLI coding agents: what we know about each, as plain data and pure functions.

A runner is one module with a `RUNNER`, and its image a target of consumer/runners.Dockerfile. `agent` drives
all of them. A runner's program runs unmodified in the workspace. It reaches the model through the attempt's
gateway, and has only that gateway's dummy credential.

The workspace of a further attempt is new, so no runner resumes its own session: the next attempt starts from
the pushed branch, and the prompt says what happened before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coding_agent_consumer.gateway import WireFormat
from coding_agent_consumer.workspace.protocol import ProcessSpec


@dataclass(frozen=True)
class Order:
    """What a runner's program needs to know.

    Attributes:
        url: of the gateway, without a path.
        credential: opens the gateway alone.
    """

    url: str
    credential: str = field(repr=False)
    model: str
    instructions: str
    prompt: str


@dataclass(frozen=True)
class Launch:
    """How a runner's program starts, and its standard input."""

    process: ProcessSpec
    input: str


@dataclass(frozen=True)
class Said:
    """Text of the model; the last one is the summary.

    Attributes:
        continues: it continues the text before it.
    """

    text: str
    continues: bool = False


@dataclass(frozen=True)
class Called:
    """A tool that is used."""

    id: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Returned:
    """What a tool gave."""

    id: str
    tool: str
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Failed:
    """The program gives up.

    Attributes:
        status: HTTP status of the model's answer, if it was that.
    """

    message: str
    status: int | None = None


Event = Said | Called | Returned | Failed


@dataclass(frozen=True)
class Runner:
    """One CLI coding agent.

    Attributes:
        launch: its command line, variables, files and input.
        format: what it speaks with the model; `None`: any.
        events: what one JSON line of its output says; `None`: its output is plain text.
        status_of: the HTTP status of the model's answer that an exit status means.
    """

    name: str
    format: WireFormat | None
    launch: Callable[[Order], Launch]
    events: Callable[[Mapping[str, Any]], Iterator[Event]] | None
    status_of: Callable[[int], int | None] = lambda _: None


def text_of(value: Any) -> str:
    """A field that should be text."""
    return value if isinstance(value, str) else ""


def fields_of(value: Any) -> Mapping[str, Any]:
    """A field that should be an object."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: Any) -> list[Mapping[str, Any]]:
    """A field that should be a list of objects."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
