"""How an attempt ended: the one value that the consumer hands back, whatever started it."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Literal

from pydantic import Field

from coding_agent_core.tasks import Frozen

MAX_MESSAGE_BYTES = 4096
"""Kubernetes keeps at most 4,096 bytes of a container's termination message."""


class ExitCode(IntEnum):
    """Exit status of an attempt (design, *Operator*); the numbers follow sysexits.h where it has one."""

    DONE = 0
    CANNOT = 65
    TEMPORARY = 75
    REFUSED = 77
    CONFIGURATION = 78
    CANCELLED = 143


class Reason(StrEnum):
    """Why an attempt ended as it did: one CamelCase word, as Kubernetes conditions have it."""

    COMPLETED = "Completed"
    NOTHING_TO_CHANGE = "NothingToChange"
    CANNOT_BE_DONE = "CannotBeDone"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    MODEL_REFUSED = "ModelRefused"
    MODEL_MALFORMED = "ModelMalformed"
    FORGE_UNAVAILABLE = "ForgeUnavailable"
    FORGE_REFUSED = "ForgeRefused"
    ITEM_GONE = "ItemGone"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    TOOL_FAILING = "ToolFailing"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    WORKSPACE_FAILED = "WorkspaceFailed"
    CONFIGURATION = "Configuration"
    CANCELLED = "Cancelled"
    INTERNAL = "InternalError"


class Class(StrEnum):
    """What follows from an outcome (requirement B5)."""

    SUCCEEDED = "succeeded"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    OUT_OF_BUDGET = "out-of-budget"
    CANCELLED = "cancelled"


_CLASSES: dict[Reason, tuple[Class, ExitCode]] = {
    Reason.COMPLETED: (Class.SUCCEEDED, ExitCode.DONE),
    Reason.NOTHING_TO_CHANGE: (Class.SUCCEEDED, ExitCode.DONE),
    Reason.CANNOT_BE_DONE: (Class.PERMANENT, ExitCode.CANNOT),
    Reason.MODEL_UNAVAILABLE: (Class.TRANSIENT, ExitCode.TEMPORARY),
    Reason.MODEL_REFUSED: (Class.PERMANENT, ExitCode.CONFIGURATION),
    Reason.MODEL_MALFORMED: (Class.PERMANENT, ExitCode.CANNOT),
    Reason.FORGE_UNAVAILABLE: (Class.TRANSIENT, ExitCode.TEMPORARY),
    Reason.FORGE_REFUSED: (Class.PERMANENT, ExitCode.REFUSED),
    Reason.ITEM_GONE: (Class.PERMANENT, ExitCode.CANNOT),
    Reason.BUDGET_EXHAUSTED: (Class.OUT_OF_BUDGET, ExitCode.CANNOT),
    Reason.TOOL_FAILING: (Class.PERMANENT, ExitCode.CANNOT),
    Reason.DEADLINE_EXCEEDED: (Class.OUT_OF_BUDGET, ExitCode.CANNOT),
    Reason.WORKSPACE_FAILED: (Class.TRANSIENT, ExitCode.TEMPORARY),
    Reason.CONFIGURATION: (Class.PERMANENT, ExitCode.CONFIGURATION),
    Reason.CANCELLED: (Class.CANCELLED, ExitCode.CANCELLED),
    Reason.INTERNAL: (Class.TRANSIENT, ExitCode.TEMPORARY),
}


class Usage(Frozen):
    """What an attempt cost: requests to the model and tokens, as the provider counts them."""

    requests: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)

    def plus(self, other: Usage) -> Usage:
        """The sum of both."""
        return Usage(
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


class Outcome(Frozen):
    """The end of one attempt.

    Attributes:
        version: of this form, for readers of another release.
        message: one plain sentence for the person who applied the label.
        branch: the branch that holds the work, if anything was pushed.
        change_url: the pull or merge request, if there is one.
        summary: what the agent says it did, Markdown.
        retry_after: seconds that the model or the forge asked us to wait.
    """

    version: Literal[1] = 1
    reason: Reason
    message: str
    branch: str | None = None
    change_url: str | None = None
    summary: str = ""
    usage: Usage = Usage()
    retry_after: float | None = None

    @property
    def outcome_class(self) -> Class:
        """What follows from it."""
        return _CLASSES[self.reason][0]

    @property
    def exit_code(self) -> ExitCode:
        """The process's exit status."""
        return _CLASSES[self.reason][1]

    @property
    def succeeded(self) -> bool:
        """The task was done."""
        return self.outcome_class is Class.SUCCEEDED

    @property
    def retryable(self) -> bool:
        """Another attempt can help."""
        return self.outcome_class is Class.TRANSIENT

    def to_termination_message(self) -> str:
        """JSON of at most 4 KiB; the summary, then the message, are cut to fit."""
        text = self.model_dump_json()
        over = len(text.encode()) - MAX_MESSAGE_BYTES
        if over <= 0:
            return text
        for name in ("summary", "message"):
            value: str = getattr(self, name)
            for length in (1500, 500, 100, 0):
                shorter = self.model_copy(update={name: value[:length] + ("…" if length else "")})
                text = shorter.model_dump_json()
                if len(text.encode()) <= MAX_MESSAGE_BYTES:
                    return text
            self = shorter  # noqa: PLW0642 - go on cutting what is cut already
        raise ValueError("the outcome does not fit a termination message even without its texts")
