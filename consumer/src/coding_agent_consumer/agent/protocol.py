"""What the task handler gives to an agent and gets back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coding_agent_core.outcome import Usage
from coding_agent_core.reasons import Reason

from coding_agent_consumer.agent.last_lines import LastLines
from coding_agent_consumer.workspace.protocol import Workspace


@dataclass(frozen=True)
class Brief:
    """The job, in words.

    Attributes:
        instructions: the system prompt.
        prompt: the item with its comments, and what happened in earlier attempts.
        transcript: JSON-lines file that the agent appends its messages to as they happen; `None` keeps none.
        last_lines: takes what the agent says and does, in short lines, as it happens.
    """

    instructions: str
    prompt: str
    transcript: Path | None = None
    last_lines: LastLines | None = None


@dataclass(frozen=True)
class Step:
    """Something the agent did, for progress displays and logs; texts are short and hold no secret."""

    number: int
    kind: str
    """`model`, `tool` or `compress`."""
    title: str
    detail: str = ""


OnStep = Callable[[Step], Awaitable[None]]


@dataclass(frozen=True)
class Ending:
    """How the agent's work ended; the work itself is in the workspace.

    Attributes:
        message: one plain sentence for the person who applied the label.
        summary: the agent's own words on what it did, Markdown; empty when it did not come to an end.
        retry_after: seconds that the model asked us to wait before another attempt.
    """

    reason: Reason
    message: str
    summary: str
    usage: Usage
    retry_after: float | None = None


class Agent(Protocol):
    """Works on a brief in a workspace until it is done, gives up, or is stopped. Never raises for these."""

    async def work(
        self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, timeout: float, on_step: OnStep
    ) -> Ending:
        """Work.

        Args:
            brief: the job.
            workspace: where.
            stop: set to cancel; the agent returns within seconds with reason `Cancelled`.
            timeout: seconds of wall clock after which it ends with `DeadlineExceeded`.
            on_step: awaited after each step.
        """
        ...
