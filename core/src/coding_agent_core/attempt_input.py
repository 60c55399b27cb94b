"""What an attempt is given: the task, and what earlier attempts of it left behind."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from coding_agent_core.queued_task import QueuedTask
from coding_agent_core.tasks import Frozen

ENVIRONMENT_VARIABLE = "CODING_AGENT_TASK"
"""Holds the JSON form in the agent's container."""


class Earlier(Frozen):
    """What earlier attempts of the same task left.

    Attributes:
        branch: pushed, to continue from.
        change_url: the change that was opened from it.
        recap: what they did and why they ended, plain text for the model; bounded by who writes it.
        transcripts: where their whole transcripts are, oldest first.
    """

    branch: str | None = None
    change_url: str | None = None
    recap: str = Field(default="", max_length=16_384)
    transcripts: tuple[str, ...] = ()


class AttemptInput(Frozen):
    """The input of one attempt. It holds no secret.

    Attributes:
        max_attempts: of the task; this one is `task.attempt`.
        timeout_seconds: wall clock from the attempt's start; afterwards the cluster kills it.
    """

    task: QueuedTask
    max_attempts: int = Field(ge=1)
    timeout_seconds: int = Field(ge=1)
    earlier: Earlier = Earlier()

    def to_json(self) -> str:
        """As it stands in the environment: the queue's message, with the rest beside it."""
        return json.dumps(
            {
                **self.task.to_message(),
                "maxAttempts": self.max_attempts,
                "timeoutSeconds": self.timeout_seconds,
                "earlier": self.earlier.model_dump(mode="json", exclude_defaults=True),
            },
            ensure_ascii=False,
        )

    @staticmethod
    def from_json(text: str, *, now: datetime) -> AttemptInput:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not an attempt's input; the sentence names the field.
        """
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not an attempt's input: not JSON: {error}") from error
        task = QueuedTask.from_message(data, now=now)
        try:
            return AttemptInput(
                task=task,
                max_attempts=data.get("maxAttempts", task.attempt),
                timeout_seconds=data.get("timeoutSeconds", 3600),
                earlier=Earlier.model_validate(data.get("earlier") or {}),
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"not an attempt's input: {where}: {first['msg']}") from error
