"""How an attempt ended: the one value that the consumer hands back, whatever started it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from coding_agent_core.cost import Cost, sum_of
from coding_agent_core.reasons import REASONS, ExitCode, Reason, ReasonClass
from coding_agent_core.tasks import Frozen
from coding_agent_core.text import beginning, last_lines

MAX_MESSAGE_BYTES = 4096
"""Kubernetes keeps at most 4,096 bytes of a container's termination message."""
MAX_PLACE = 1024
"""Characters that name a transcript's place, or its web address."""
MAX_TAIL = 2048
"""Characters of an attempt's last steps that are kept beside its outcome."""
_MANY = 2**53
"""More tokens than any attempt uses: what is beyond it is no count."""


class _Report(Frozen):
    """Crosses from a pod to the operator: within a version, fields of a newer release are passed over."""

    model_config = ConfigDict(extra="ignore")


class Usage(_Report):
    """What an attempt used: requests to the model and tokens, as the provider counts them.

    Attributes:
        cost: `None` where the model's price is not configured.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    requests: int = Field(default=0, ge=0, le=_MANY)
    input_tokens: int = Field(default=0, ge=0, le=_MANY)
    output_tokens: int = Field(default=0, ge=0, le=_MANY)
    cost: Cost | None = None

    def plus(self, other: Usage) -> Usage:
        """The sum of both."""
        return Usage(
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=sum_of(self.cost, other.cost),
        )


class Outcome(_Report):
    """The end of one attempt.

    Attributes:
        version: of this form, for readers of another release.
        message: one plain sentence for the person who applied the label.
        branch: the branch that holds the work, if anything was pushed.
        change_url: the pull or merge request, if there is one.
        summary: what the agent says it did, Markdown.
        retry_after: seconds that the model or the forge asked us to wait.
        transcript: place of the whole transcript, where it is kept beyond the attempt.
        transcript_url: address at which people can read it, if one is configured.
        tail: the last steps in short lines, the newest last.
    """

    version: Literal[1] = 1
    reason: Reason
    message: str
    branch: str | None = None
    change_url: str | None = None
    summary: str = ""
    usage: Usage = Usage()
    retry_after: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    transcript: str | None = Field(default=None, max_length=MAX_PLACE)
    transcript_url: str | None = Field(default=None, max_length=MAX_PLACE, pattern=r"^https?://\S+$")
    tail: str = Field(default="", max_length=MAX_TAIL)

    @property
    def outcome_class(self) -> ReasonClass:
        return REASONS[self.reason].outcome_class

    @property
    def exit_code(self) -> ExitCode:
        """The process's exit status."""
        code = REASONS[self.reason].exit_code
        if code is None:
            raise ValueError(f"{self.reason} is not for attempts to report")
        return code

    @property
    def succeeded(self) -> bool:
        """The task was done."""
        return self.outcome_class is ReasonClass.SUCCEEDED

    @property
    def retryable(self) -> bool:
        """Another attempt can help."""
        return self.outcome_class is ReasonClass.TRANSIENT

    def to_termination_message(self) -> str:
        """JSON of at most 4 KiB; tail, summary and message are cut, in this order, to fit.

        Of the tail the end is kept, of the others the beginning.
        """
        outcome = self
        for name, lengths in (
            ("tail", (1200, 600, 300, 0)),
            ("summary", (1500, 500, 100, 0)),
            ("message", (500, 100, 0)),
        ):
            whole: str = getattr(self, name)
            for length in lengths:
                if outcome._fits:
                    return outcome.model_dump_json()
                cut = last_lines(whole, length) if name == "tail" else beginning(whole, length)
                outcome = outcome.model_copy(update={name: cut})
        outcome = outcome if outcome._fits else outcome.model_copy(update=dict.fromkeys(_DISPENSABLE))
        if not outcome._fits:
            raise ValueError("the outcome does not fit a termination message even without its texts")
        return outcome.model_dump_json()

    @staticmethod
    def from_termination_message(text: str) -> Outcome | None:
        """The outcome that a container left; `None` for all else: another version, a log's last lines."""
        try:
            return Outcome.model_validate_json(text) if text else None
        except ValidationError:
            return None

    @property
    def _fits(self) -> bool:
        return len(self.model_dump_json().encode()) <= MAX_MESSAGE_BYTES


_DISPENSABLE = ("transcript", "transcript_url")
