"""The content of a request in any wire format: its messages and tools, and which answer is due.

Where a conversation stands in its script is read from the conversation itself: the ids of our tool calls
carry the turn's number, so several tasks can play at once, a client may start again, and one that shortens
its history is still followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_CALL_ID = re.compile(r"^(?:call|toolu)_(\d+)_\d+$")
_SHELL_TOOLS = (
    "Bash",
    "bash",
    "exec_command",
    "shell_command",
    "shell",
    "run_shell_command",
    "run_command",
    "execute_command",
    "terminal",
)
"""Names of shell tools: those of Claude Code, OpenCode, Codex, Gemini CLI, our own agent and others."""


class Role(StrEnum):
    """The author of a message. In some wire formats, results of tools are messages of the user."""

    SYSTEM = "system"
    USER = "user"
    MODEL = "model"
    TOOL = "tool"


@dataclass(frozen=True)
class Message:
    """
    Attributes:
        call_ids: of the tool calls in an answer of ours.
    """

    role: Role
    text: str
    call_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tool:
    """
    Attributes:
        schema: JSON schema of its arguments.
    """

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """
    Attributes:
        stream: whether the answer is wanted as server-sent events.
        schema: JSON schema that the answer's text must have, if the request wants one.
        length: characters of the messages as they came, for an estimate of tokens.
    """

    model: str
    stream: bool
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    schema: Mapping[str, Any] | None
    length: int

    @property
    def opening(self) -> str:
        """The text of the user before the first answer. Some agents send several texts, the task last."""
        texts: list[str] = []
        for message in self.messages:
            if message.role in (Role.MODEL, Role.TOOL):
                break
            if message.role is Role.USER:
                texts.append(message.text)
        return "\n".join(texts)

    @property
    def latest(self) -> str:
        """The text that was sent to the model since its last answer."""
        texts: list[str] = []
        for message in reversed(self.messages):
            if message.role is Role.MODEL:
                break
            if message.role is not Role.SYSTEM:
                texts.append(message.text)
        return "\n".join(reversed(texts))

    @property
    def position(self) -> int:
        """The number of answers in the conversation, including those that the request leaves out."""
        reached = 0
        for message in self.messages:
            if message.role is not Role.MODEL:
                continue
            ids = [_CALL_ID.match(entry) for entry in message.call_ids]
            known = next((int(found[1]) for found in ids if found), None)
            reached = known + 1 if known is not None else reached + 1
        return reached

    def shell_call(self, command: str) -> tuple[str, dict[str, Any]] | None:
        """Return the name and arguments of a call that runs a command in the shell of the request."""
        offered = {tool.name: tool for tool in self.tools}
        for name in _SHELL_TOOLS:
            if name in offered:
                return name, _shell_arguments(offered[name].schema, command)
        return None


def _shell_arguments(schema: Mapping[str, Any], command: str) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or ()
    arguments = {name: instance(properties[name]) for name in required if name in properties}
    for name in ("command", "cmd"):
        if name in properties:
            is_list = _type_of(properties[name]) == "array"
            arguments[name] = ["bash", "-lc", command] if is_list else command
    return arguments


def instance(schema: Mapping[str, Any]) -> Any:
    """Return a small value that a JSON schema allows, for the parts of JSON schema that agents use."""
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return instance(schema[key][0])
    match _type_of(schema):
        case "object":
            return {name: instance(entry) for name, entry in (schema.get("properties") or {}).items()}
        case "array":
            return []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case "null":
            return None
    return "scripted"


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    # Google's schemas write types in capitals, and several types may be allowed.
    return str(kind[0] if isinstance(kind, list) else kind).lower()
