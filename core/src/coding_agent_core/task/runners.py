"""The names of the runners. Pure, and without imports that take time: the command line needs them."""

from __future__ import annotations

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
