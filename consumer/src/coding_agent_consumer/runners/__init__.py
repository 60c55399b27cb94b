"""CLI coding agents: the types with which `programs` describes each of them and `agent` drives them.

A runner's image is a target of consumer/runners.Dockerfile. Its program runs unmodified in the workspace. It
reaches the model through the attempt's gateway, and has only that gateway's own credential.

Within an attempt, a runner continues its own conversation if the work has to be repaired. The workspace of a
further attempt is new, so no runner resumes its conversation there: the next attempt starts from the pushed
branch, and the prompt says what happened before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coding_agent_core.settings.llm import WireFormat
from coding_agent_core.settings.model import RUNNER_FORMATS
from coding_agent_core.task.runners import RunnerName

from coding_agent_consumer.workspace.protocol import HOME_FROM_TREE, ProcessSpec

FOLDER = ".coding-agent"
"""Folder of instructions and images in the workspace's HOME: no patch contains files outside the tree."""


@dataclass(frozen=True)
class RunnerInput:
    """The input from which a runner's program is started.

    Attributes:
        url: the gateway's URL, without a path.
        credential: the gateway's own credential.
        context_length: tokens of the model's context.
        max_output: tokens of the model's longest answer.
        images: paths of the images in HOME, below `FOLDER`.
        conversation: the id of the conversation to continue with the prompt; empty for a new one.
    """

    url: str
    credential: str = field(repr=False)
    model: str
    instructions: str
    prompt: str
    context_length: int
    max_output: int
    images: tuple[str, ...] = ()
    conversation: str = ""

    @property
    def images_from_tree(self) -> tuple[str, ...]:
        """The paths of the images relative to the tree's root, which is the program's working folder."""
        return tuple(f"{HOME_FROM_TREE}/{path}" for path in self.images)


@dataclass(frozen=True)
class Launch:
    """The command line, environment, files and standard input with which a runner's program starts."""

    process: ProcessSpec
    input: str


@dataclass(frozen=True)
class AgentMessage:
    """A text of the model; the last one is the summary.

    Attributes:
        continues: whether it continues the text before it.
    """

    text: str
    continues: bool = False


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the program."""

    id: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ToolResult:
    """The result of a tool call."""

    id: str
    tool: str
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Warned:
    """A warning of the program, which continues, e.g. about a setting of ours that it does not know."""

    message: str


@dataclass(frozen=True)
class Failed:
    """The program has given up.

    Attributes:
        status: HTTP status of the model's answer, if that was the reason.
    """

    message: str
    status: int | None = None


Event = AgentMessage | ToolCall | ToolResult | Warned | Failed


@dataclass(frozen=True)
class Runner:
    """The description of a CLI coding agent.

    Attributes:
        launch: gives the program's command line, variables, files and input.
        events: gives the events that a JSON line of the output stands for; `None`: the output is plain text.
        status_of: gives the HTTP status of the model's answer that an exit status stands for.
    """

    name: RunnerName
    launch: Callable[[RunnerInput], Launch]
    events: Callable[[Mapping[str, Any]], Iterator[Event]] | None
    status_of: Callable[[int], int | None] = lambda _: None

    @property
    def format(self) -> WireFormat | None:
        """The wire format in which the program asks the model; `None`: any format."""
        return RUNNER_FORMATS.get(self.name)
