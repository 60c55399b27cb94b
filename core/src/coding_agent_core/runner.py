"""The coding agents that can do the work of a task."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class RunnerName(StrEnum):
    """The coding agent that does the work."""

    BUILTIN = "builtin"
    """Our own, in the agent's process."""
    CLAUDE_CODE = "claude-code"
    """Claude Code, with `llm.provider: anthropic`."""
    CODEX = "codex"
    """Codex, with a service that speaks OpenAI's Responses."""
    GEMINI = "gemini"
    """Gemini CLI, with `llm.provider: google`."""
    OPENCODE = "opencode"
    """OpenCode, with a service that speaks OpenAI's Chat Completions."""
    COMMAND = "command"
    """The command line of `consumer.command`."""


def labelled_runner(labels: Iterable[str], bot_label: str) -> RunnerName | None:
    """The coding agent that a label such as `coding agent: codex` names; of several, the first by name."""
    names = {label.casefold() for label in labels}
    chosen = [name for name in sorted(RunnerName) if f"{bot_label}: {name}".casefold() in names]
    return chosen[0] if chosen else None
