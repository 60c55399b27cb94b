"""How an attempt and a task end: phase, outcome, tokens used and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from coding_agent_core.environment import Environment
from coding_agent_core.reasons import REASONS, ExitCode, Reason, ReasonClass
from coding_agent_core.tasks import Frozen
from coding_agent_core.text import beginning, last_lines

MAX_MESSAGE_BYTES = 4096
"""Kubernetes keeps at most 4,096 bytes of a container's termination message."""
MAX_PLACE = 1024
"""Characters that name a transcript's place, or its web address."""
MAX_TAIL = 2048
"""Characters of an attempt's last steps that are kept with its outcome."""
MAX_DENIALS = 10
"""Hosts that an outcome names as denied by the egress proxy: those that were denied most often."""
MAX_MODELS = 8
"""Models that a usage names: the most expensive. The rest is summed up as `OTHER_MODELS`."""
OTHER_MODELS = "other"
UNKNOWN_MODEL = "unknown"
_MANY = 2**53
"""More tokens than any attempt uses."""
_SMALLEST = Decimal("0.000001")
"""A single request to a cheap model costs less than a hundredth of any currency's smallest coin."""
_MILLION = Decimal(1_000_000)
_CENTS = 2


class Phase(StrEnum):
    """A task's phase, by the same name in comments, columns, metrics and logs."""

    QUEUED = "Queued"
    RUNNING = "Running"
    BACKOFF = "Backoff"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


def terminal_phase(status: str | None, reason: str | None) -> Phase | None:
    """How a task ended, from its `Succeeded` condition; `None` while it has not ended."""
    if status == "True":
        return Phase.SUCCEEDED
    if status == "False":
        return Phase.CANCELLED if reason == Phase.CANCELLED else Phase.FAILED
    return None


class _ReportedModel(Frozen):
    """Goes from a pod to the operator: fields of a newer release are ignored."""

    model_config = ConfigDict(extra="ignore")


class Cost(_ReportedModel):
    """An amount of money.

    Attributes:
        amount: decimal number with at most six places, as text: JSON numbers are binary fractions.
        currency: ISO 4217 code.
    """

    amount: str = Field(max_length=20, pattern=r"^\d{1,12}(\.\d{1,6})?$")
    currency: str = Field(max_length=3, pattern=r"^[A-Z]{3}$")

    @staticmethod
    def of(amount: Decimal, currency: str) -> Cost:
        """Round to at most six places, without trailing zeros beyond the cents."""
        largest = Decimal(10**12) - _SMALLEST
        whole, _, fraction = f"{min(amount, largest).quantize(_SMALLEST, ROUND_HALF_UP):f}".partition(".")
        return Cost(amount=f"{whole}.{fraction.rstrip('0').ljust(_CENTS, '0')}", currency=currency)

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"


class Price(BaseModel):
    """What a model's provider asks for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Decimal = Field(ge=0, le=1_000_000)
    """For a million tokens sent."""
    output: Decimal = Field(ge=0, le=1_000_000)
    """For a million tokens received."""
    cached_input: Decimal | None = Field(default=None, ge=0, le=1_000_000)
    """For a million tokens sent that the provider had in its cache; by default the same as `input`."""
    cache_write: Decimal | None = Field(default=None, ge=0, le=1_000_000)
    """For a million tokens sent that the provider put into its cache; by default the same as `input`."""
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """ISO 4217 code, for example `USD` or `EUR`."""

    def amount(
        self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, cache_write_tokens: int = 0
    ) -> Decimal:
        """Of requests; `input_tokens` includes those read from and written to the provider's cache."""
        cached = min(max(cached_tokens, 0), input_tokens)
        written = min(max(cache_write_tokens, 0), input_tokens - cached)
        read_rate = self.input if self.cached_input is None else self.cached_input
        write_rate = self.input if self.cache_write is None else self.cache_write
        amount = (input_tokens - cached - written) * self.input + output_tokens * self.output
        return (amount + cached * read_rate + written * write_rate) / _MILLION


def sum_of(first: Cost | None, second: Cost | None) -> Cost | None:
    """The sum, in the currency of the second; without an exchange rate, other amounts are left out."""
    if first is None or second is None:
        return second or first
    if first.currency != second.currency:
        return second
    return Cost.of(Decimal(first.amount) + Decimal(second.amount), second.currency)


class _Counts(_ReportedModel):
    """Requests to the model and tokens, as the provider counts them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    requests: int = Field(default=0, ge=0, le=_MANY)
    input_tokens: int = Field(default=0, ge=0, le=_MANY)
    output_tokens: int = Field(default=0, ge=0, le=_MANY)
    cost: Cost | None = None
    """`None`: the price of the model is not known."""


class ModelUsage(_Counts):
    """What was used of one model."""

    model: str = Field(max_length=256)

    def plus(self, other: ModelUsage) -> ModelUsage:
        return ModelUsage(
            model=self.model,
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=sum_of(self.cost, other.cost),
        )


class Usage(_Counts):
    """What an attempt, or a task, used.

    Attributes:
        model: its name; `None`: it is unknown, or there were several.
        models: by model, the most expensive first, if there were several.
    """

    model: str | None = Field(default=None, max_length=256)
    models: tuple[ModelUsage, ...] | None = Field(default=None, max_length=MAX_MODELS)

    @property
    def by_model(self) -> tuple[ModelUsage, ...]:
        """The same by model, also where there was only one; empty without a request."""
        if self.models or not self.requests:
            return self.models or ()
        counts = {name: getattr(self, name) for name in _Counts.model_fields}
        return (ModelUsage(model=self.model or UNKNOWN_MODEL, **counts),)

    def plus(self, other: Usage) -> Usage:
        only = other.model if not self.requests or self.model == other.model else None
        models = _merged((*self.by_model, *other.by_model))
        return Usage(
            model=only if other.requests else self.model,
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=sum_of(self.cost, other.cost),
            models=models if len(models) > 1 else None,
        )


def _merged(used: Iterable[ModelUsage]) -> tuple[ModelUsage, ...]:
    """Each model once, the most expensive first."""
    sums: dict[str, ModelUsage] = {}
    for one in used:
        sums[one.model] = sums[one.model].plus(one) if one.model in sums else one
    other = sums.pop(OTHER_MODELS, None)
    dearest = sorted(sums.values(), key=_dearness, reverse=True)
    if len(dearest) + (other is not None) > MAX_MODELS:
        for one in dearest[MAX_MODELS - 1 :]:
            rest = one.model_copy(update={"model": OTHER_MODELS})
            other = rest if other is None else other.plus(rest)
        dearest = dearest[: MAX_MODELS - 1]
    return (*dearest, *(() if other is None else (other,)))


def _dearness(used: ModelUsage) -> tuple[Decimal, int]:
    return Decimal(used.cost.amount if used.cost else 0), used.input_tokens + used.output_tokens


class Denial(_ReportedModel):
    """A host that the egress proxy has denied to an attempt.

    Attributes:
        host: with its port, unless that is 443 or 80.
        count: how often.
    """

    host: str = Field(max_length=260, pattern=r"^[A-Za-z0-9._-]+(:[0-9]{1,5})?$")
    count: int = Field(ge=1, le=_MANY)


class Outcome(_ReportedModel):
    """How one attempt ended.

    Attributes:
        version: of this format, for readers of another release.
        message: one plain sentence for the person who applied the label.
        branch: the branch that holds the work, if anything was pushed.
        change_url: the pull or merge request, if there is one.
        summary: what the agent says it did, Markdown.
        retry_after: seconds that the model or the forge asked us to wait.
        transcript: place of the whole transcript, where it is kept beyond the attempt.
        transcript_url: address at which people can read it, if one is configured.
        tail: the last steps in short lines, the newest last.
        denied: hosts that the egress proxy has denied to the attempt.
        environment: that the next attempt's pod needs, with the reason `EnvironmentChanged`.
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
    denied: tuple[Denial, ...] = Field(default=(), max_length=MAX_DENIALS)
    environment: Environment | None = None

    @property
    def outcome_class(self) -> ReasonClass:
        return REASONS[self.reason].outcome_class

    @property
    def exit_code(self) -> ExitCode:
        code = REASONS[self.reason].exit_code
        if code is None:
            raise ValueError(f"{self.reason} is not for attempts to report")
        return code

    @property
    def succeeded(self) -> bool:
        return self.outcome_class is ReasonClass.SUCCEEDED

    @property
    def retryable(self) -> bool:
        """Another attempt can help."""
        return self.outcome_class is ReasonClass.TRANSIENT

    def to_termination_message(self) -> str:
        """JSON of at most 4 KiB: cuts the tail (from its start), then the summary and the message, to fit."""
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
        if not outcome._fits:
            outcome = outcome.model_copy(update={"transcript": None, "transcript_url": None, "denied": ()})
        if not outcome._fits:
            outcome = outcome.model_copy(update={"usage": self.usage.model_copy(update={"models": None})})
        if not outcome._fits:
            raise ValueError("the outcome does not fit a termination message even without its texts")
        return outcome.model_dump_json()

    @staticmethod
    def from_termination_message(text: str) -> Outcome | None:
        """The outcome that a container left; `None` for other text, such as a log's last lines."""
        try:
            return Outcome.model_validate_json(text) if text else None
        except ValidationError:
            return None

    @property
    def _fits(self) -> bool:
        return len(self.model_dump_json().encode()) <= MAX_MESSAGE_BYTES
