"""The interface to an agent: its input, its reports while it works, and the conditions that end it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from coding_agent_core.runtime.retry import StoppedError, run_until
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason

from coding_agent_consumer.transcripts.transcript import LastLines, Scrub
from coding_agent_consumer.workspace.protocol import Workspace

_CLEANUP_SECONDS = 5.0
"""A cancelled agent has this long to release its tools, and a runner's program to end."""


@dataclass(frozen=True)
class Image:
    """An image that belongs to the prompt.

    Attributes:
        link: the link as it is written in the text.
        media_type: for example `image/png`.
    """

    link: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Brief:
    """The input of an agent's work.

    Attributes:
        instructions: the system prompt.
        prompt: the item with its comments, and what happened in earlier attempts.
        scrub: removes the secrets of the attempt from what the agent and its commands leave for people.
        images: the images that belong to the prompt.
        transcript: JSON-lines file to which the agent appends each message at once; `None`: there is none.
        last_lines: receives what the agent says and does, in short lines, as it happens.
        follow_up: what to do after the work is done, if the agent works once more in the same workspace. An
            agent that can continue its conversation gets only this; any other agent gets the prompt, which
            then contains it.
    """

    instructions: str
    prompt: str
    scrub: Scrub
    images: tuple[Image, ...] = ()
    transcript: Path | None = None
    last_lines: LastLines | None = None
    follow_up: str | None = None


@dataclass(frozen=True)
class Step:
    """Something that the agent did, for the log. The title is short and contains no secrets."""

    number: int
    kind: str
    """`model`, `tool` or `compress`."""
    title: str


OnStep = Callable[[Step], Awaitable[None]]


class Agent(Protocol):
    async def work(
        self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, timeout: float, on_step: OnStep
    ) -> Outcome:
        """Work until the task is done, cannot go on, or is stopped; errors become part of the outcome.

        The outcome has no branch and no change: the work itself is in the workspace.

        Args:
            stop: set to cancel; the agent returns within seconds with reason `Cancelled`.
            timeout: seconds of wall-clock time after which it returns with `DeadlineExceeded`.
            on_step: awaited after each step.
        """
        ...


async def work_until(
    work: Callable[[], Awaitable[Outcome]], scrub: Scrub, stop: asyncio.Event, timeout: float
) -> Outcome:
    """Return the outcome of an agent's work, without secrets; a stop or the timeout ends the work early."""
    try:
        outcome = await run_until(work, stop, timeout=timeout, cleanup=_CLEANUP_SECONDS)
    except StoppedError:
        return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped.")
    except TimeoutError:
        time = f"{timeout / 60:.0f} minutes" if timeout >= 120 else f"{timeout:.0f} seconds"
        return Outcome(
            reason=Reason.DEADLINE_EXCEEDED,
            message=f"The agent did not finish within {time} (consumer.timeout_seconds).",
        )
    return outcome.model_copy(update={"message": scrub(outcome.message), "summary": scrub(outcome.summary)})
