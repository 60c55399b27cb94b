"""The input of an attempt, its outcome, and the key of its transcript. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.alias_generators import to_camel

from coding_agent_core.platforms.addresses import MAX_PLACE
from coding_agent_core.platforms.text import beginning, first_problem, last_lines, one_line, printable
from coding_agent_core.task.egress import MAX_DENIALS, Denial
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import Frozen, Item
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.reasons import REASONS, ExitCode, Reason, ReasonClass
from coding_agent_core.task.round_report import RoundReport, round_report
from coding_agent_core.task.usage import Allowance, Usage
from coding_agent_core.task.verification import Commit, VerifyReport

ENVIRONMENT_VARIABLE = "CODING_AGENT_TASK"
"""The environment variable of the agent's container that contains the attempt's input as JSON."""
MAX_MESSAGE_BYTES = 4096
"""Kubernetes keeps at most 4,096 bytes of a container's termination message."""
_ENDED_LENGTH = 500
MAX_MESSAGE = 1024
"""Maximum number of characters of the sentence that says why an attempt ended."""
_KEPT = {"branch": 255, "change_url": 2048, "summary": 4096}
"""Maximum number of characters that a status can hold of an attempt's report, by field."""
MAX_TAIL = 2048
"""Maximum number of characters of an attempt's last steps that are kept with its outcome."""


class EarlierAttempts(Frozen):
    """The results of a task's earlier attempts, for the next attempt.

    Attributes:
        branch: the pushed branch from which to continue.
        change_url: the address of the change that was opened from the branch.
        recap: what the attempts did and why they ended, as plain text for the model.
        ended: why the last attempt ended, as one line for the model.
        transcripts: the places of the attempts' transcripts; the oldest is first.
        usage: what the attempts have used of the model; `None` if that is unknown for one of them.
    """

    branch: str | None = None
    change_url: str | None = None
    recap: str = Field(default="", max_length=16_384)
    ended: str = Field(default="", max_length=1024)
    transcripts: tuple[str, ...] = ()
    usage: Usage | None = Usage()


class AttemptInput(Frozen):
    """The input of one attempt. It contains no secret.

    Attributes:
        timeout_seconds: the time limit from the attempt's start; afterwards the cluster kills the attempt.
        model: the task's model, at the configured service; `None` for the configured model.
        instructions: the task's instructions, which are added to the configured ones.
        allowance: how much this attempt may spend on the model; `None` if there is no limit.
        environment: the environment with which the pod was made, in addition to the installation's.
        answered: the position in the item's history that the run answers (`labels.Position`); `None` if
            nobody has read it.
        trusted: whether the pod is that of a task whose item neither a fork nor a stranger wrote.
    """

    task: QueuedTask
    max_attempts: int = Field(ge=1)
    timeout_seconds: int = Field(ge=1)
    earlier: EarlierAttempts = EarlierAttempts()
    model: str | None = None
    instructions: str | None = None
    allowance: Allowance | None = None
    environment: Environment = Environment()
    answered: str | None = None
    trusted: bool = False

    def to_json(self) -> str:
        """Return the task's queue message with the other fields added, as JSON."""
        options = self.model_dump(mode="json", by_alias=True, exclude={"task"}, exclude_defaults=True)
        return json.dumps(
            {**self.task.to_message(), **{to_camel(name): value for name, value in options.items()}},
            ensure_ascii=False,
        )

    @staticmethod
    def from_json(text: str, *, now: datetime) -> AttemptInput:
        """Read the result of `to_json`.

        Raises:
            ValueError: the text is not an attempt's input; the message names the field.
        """
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not an attempt's input: not JSON: {error}") from error
        task = QueuedTask.from_message(data, now=now)
        names = AttemptInput.model_fields.keys() - {"task"}
        given = {name: data[to_camel(name)] for name in names if to_camel(name) in data}
        try:
            return AttemptInput(
                **{"task": task, "max_attempts": task.attempt, "timeout_seconds": 3600, **given}
            )
        except ValidationError as error:
            raise ValueError(f"not an attempt's input: {first_problem(error)}") from error


class Outcome(Frozen, extra="ignore"):
    """How one attempt ended. Fields of a newer release are ignored.

    Attributes:
        version: the version of this format, for readers from another release.
        message: one plain sentence for the person who applied the label.
        branch: the branch that holds the work, if anything was pushed.
        change_url: the pull or merge request, if there is one.
        summary: what the agent says it did, as Markdown.
        retry_after: seconds for which the model or the forge asked us to wait.
        transcript: the place of the whole transcript, if it is kept beyond the attempt.
        transcript_url: the address at which people can read the transcript, if one is configured.
        tail: the last steps as short lines; the newest is last.
        denied: hosts that the egress proxy denied to the attempt.
        environment: the environment that the next attempt's pod needs, with the reason `EnvironmentChanged`.
        answered: the position in the item's history when the work was over (`labels.Position`); `None` if it
            could not be read. Labels that are applied later ask for another run.
        commit: the commit that this attempt or an earlier one of the task pushed; `None` if none did.
        verify: the result of the commands that check the work; `None` if none of them ran.
        round: how a round ended, for the record; `None` if the task is not a round.
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
    answered: str | None = Field(default=None, max_length=64)
    commit: Commit | None = None
    verify: VerifyReport | None = None
    round: Annotated[RoundReport | None, BeforeValidator(round_report)] = None

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
        """Whether another attempt can help."""
        return self.outcome_class is ReasonClass.TRANSIENT

    def to_termination_message(self) -> str:
        """Return the outcome as JSON of at most 4 KiB, which is the limit of a termination message.

        A longer outcome loses the beginning of its tail first, then the ends of summary and message.
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
        if not outcome._fits:
            outcome = outcome.model_copy(update={"transcript": None, "transcript_url": None, "denied": ()})
        if not outcome._fits:
            outcome = outcome.model_copy(update={"usage": self.usage.model_copy(update={"models": None})})
        if not outcome._fits and outcome.round is not None:
            outcome = outcome.model_copy(update={"round": outcome.round.model_copy(update={"reruns": ()})})
        if not outcome._fits:
            raise ValueError("the outcome does not fit a termination message even without its texts")
        return outcome.model_dump_json()

    @staticmethod
    def from_termination_message(text: str) -> Outcome | None:
        """Read the outcome that a container left; return `None` for other text, such as a log's last lines.

        Texts are cut to what a status can hold, because a compromised agent can leave anything.
        """
        try:
            left = Outcome.model_validate_json(text)
        except ValidationError:
            return None
        cut = {name: value[:most] for name, most in _KEPT.items() if (value := getattr(left, name))}
        message, tail = printable(left.message)[:MAX_MESSAGE], last_lines(left.tail, MAX_TAIL)
        return left.model_copy(update={**cut, "message": message, "tail": tail})

    @property
    def _fits(self) -> bool:
        return len(self.model_dump_json().encode()) <= MAX_MESSAGE_BYTES


def ended_line(attempt: int, message: str) -> str:
    """Return one line that tells the next attempt why an attempt ended."""
    return f"Attempt {attempt} ended: {one_line(message, _ENDED_LENGTH)}"


def folder_of(item: Item, run: int, uuid: str) -> str:
    """Return the folder of a task's transcripts: `github/github.com/acme/shop/issue-7/run-1-UUID`.

    The run's number alone does not identify a task: the numbers start again once the item's last task is
    deleted, and transcripts are kept longer than tasks.
    """
    platform, host, place, kind, number = item.identity.split("|")
    plain = re.fullmatch(r"[A-Za-z0-9-]{1,64}", uuid)
    task = uuid if plain else hashlib.sha256(uuid.encode()).hexdigest()[:32]
    parts = [platform, host, *place.split("/"), f"{kind}-{number}", f"run-{run}-{task}"]
    return "/".join(re.sub(r"^\.+|[^A-Za-z0-9._-]", "_", part) or "_" for part in parts)


def transcript_key(item: Item, run: int, uuid: str, attempt: int) -> str:
    """Return the key of an attempt's transcript in the store."""
    return f"{folder_of(item, run, uuid)}/attempt-{attempt}.jsonl"
