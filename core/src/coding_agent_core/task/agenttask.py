"""The AgentTask custom resource as Python types; a test compares them with `crds/agenttask.yaml`.

Field names are snake_case in Python, and camelCase on the wire as Kubernetes expects (`to_wire`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.task.egress import MAX_DENIALS, Denial
from coding_agent_core.task.environment import Environment
from coding_agent_core.task.model import (
    Item,
    Origin,
    Phase,
    TaskRequest,
    Trigger,
    identity_hash,
    item_of,
    task_name,
    terminal_phase,
)
from coding_agent_core.task.objects import Metadata, manager_of
from coding_agent_core.task.round_report import RoundReport, round_report
from coding_agent_core.task.runners import RunnerName
from coding_agent_core.task.usage import Allowance, Usage
from coding_agent_core.task.verification import Evidence, VerifyReport, stored_evidence

GROUP, VERSION, PLURAL, KIND = "coding-agent.dev", "v1alpha1", "agenttasks", "AgentTask"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_PLATFORM = f"{GROUP}/platform"
LABEL_REPOSITORY = f"{GROUP}/repository"
"""The hash of the repository's identity: label values cannot contain a slash or more than 63 characters."""
LABEL_ITEM = f"{GROUP}/item"
"""The hash of the item's identity, which selects all runs of an item."""
LABEL_DEFAULTED = f"{GROUP}/defaulted"
"""`true` if spec and labels are complete. The receiver's tasks are; the operator completes all others."""
LABEL_REPORTED = f"{GROUP}/reported"
"""`true` once the item shows the end of the task. The reporter watches all other tasks. `rescan`: the end is
shown, and the annotation `rescan` or a command waits for the reporter."""
RESCAN = "rescan"
LABEL_ACTIVE = f"{GROUP}/active"
"""On Jobs: `true` until the end of the attempt is recorded. The operator lists and watches only such Jobs."""
LABEL_TASK = f"{GROUP}/task"
"""On Jobs and pods: the task's name."""
LABEL_ATTEMPT = f"{GROUP}/attempt"
"""On Jobs and pods: the number of the attempt, from 1."""
LABEL_VERIFY = f"{GROUP}/verify"
"""On Jobs and pods: `head` or `base` for an evidence pod; absent for an attempt."""
ANNOTATION_ANSWERED = f"{GROUP}/answered"
"""The position in the item's history up to which this run answers events (`labels.Position`); absent until
somebody has read the history for this run."""
ANNOTATION_CANCELLED = f"{GROUP}/cancelled-because"
"""Why a task was cancelled, as a clause for people: `alice cancelled it with a comment`."""
ANNOTATION_CANCEL_CAUSE = f"{GROUP}/cancel-cause"
"""What a person did that cancelled the task (`WithdrawalCause`)."""
ANNOTATION_DUPLICATE_OF = f"{GROUP}/duplicate-of"
"""The name of the task that answers the label application for which this task was created."""

ANNOTATION_RESCAN = f"{GROUP}/rescan"
"""What events have said about the item or a change of the agent (`runs.StoredRescan`). The reporter reads the
item, or scans the change that they name or all open changes, and removes the annotation."""

ANNOTATION_CREATED_BY = f"{GROUP}/created-by"
"""The account that created a task by hand; an admission policy of the chart refuses any other name."""
ANNOTATION_CANCELLED_BY = f"{GROUP}/cancelled-by"
"""The account that cancelled the task with our plugin. The item, which may be public, does not show it:
an account is often an e-mail address."""

ANNOTATION_ALLOWANCE = f"{GROUP}/allowance"
"""On Jobs and pods: how much the attempt may spend, as JSON."""
ANNOTATION_TRANSCRIPT = f"{GROUP}/transcript"
"""On Jobs: where the attempt stores its transcript. A killed agent reports no place, but the Job has it."""
ANNOTATION_TRANSCRIPT_URL = f"{GROUP}/transcript-url"

_ALIASES = {
    "delivery_id": "deliveryID",
    "change_url": "changeURL",
    "project_id": "projectID",
    "transcript_url": "transcriptURL",
}


UNREPORTED = f"{LABEL_REPORTED}!=true"
"""Selects active tasks, and ended tasks whose end is not shown yet."""
NOT_ENDED = ",".join(f"status.phase!={phase.value}" for phase in Phase if phase.terminal)
"""Field selector of the tasks that have not ended, so that a watch or a restart does not read old tasks."""
ENDED = ",".join(f"status.phase!={phase}" for phase in ("", *(p.value for p in Phase if not p.terminal)))
"""Field selector of the tasks that have ended."""


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",  # a newer release's fields must not stop an older operator
        populate_by_name=True,
        alias_generator=lambda name: _ALIASES.get(name, to_camel(name)),
    )

    def to_wire(self) -> dict[str, Any]:
        """Return the form that the API server stores: JSON types, without unset fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Source(_Wire):
    """The labeled item."""

    platform: Platform
    host: str = Field(min_length=1, max_length=253)
    repository: str = Field(min_length=1, max_length=512)
    kind: ItemKind
    number: int = Field(ge=1)
    project_id: int | None = Field(default=None, ge=1)

    @staticmethod
    def of(item: Item) -> Source:
        return Source(**vars(item))


class Spec(_Wire):
    """What to do. Immutable except for `cancel`, `suspend` and `priority`.

    A person may leave out everything but `source` or `url`; the operator fills in the rest (`completion`).
    """

    source: Source
    user: str = Field(default="", max_length=256)
    title: str = Field(default="", max_length=1024)
    url: str = Field(default="", max_length=2048, pattern=r"^(https?://\S+)?$")
    trigger: Trigger = Trigger(origin=Origin.MANUAL, cause=None, received_at=datetime(1970, 1, 1, tzinfo=UTC))
    run: int = Field(default=1, ge=1)
    trusted: bool = False
    model: str | None = Field(default=None, min_length=1, max_length=256)
    runner: RunnerName | None = None
    instructions: str | None = Field(default=None, min_length=1, max_length=8192)
    timeout_seconds: int = Field(default=3600, ge=1, le=604_800)
    max_attempts: int = Field(default=3, ge=1, le=20)
    budget: Allowance | None = None
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, le=31_536_000)
    cancel: bool = False
    suspend: bool = False
    priority: int = Field(default=0, ge=-1000, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _source_from_url(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("source") and data.get("url"):
            return {**data, "source": Source.of(item_of(str(data["url"])))}
        return data

    @field_validator("trigger", mode="before")
    @classmethod
    def _without_cause(cls, trigger: Any) -> Any:
        # As in the schema, a task that a person wrote has no cause.
        return {"cause": None, **trigger} if isinstance(trigger, Mapping) else trigger

    @property
    def item(self) -> Item:
        return Item(**self.source.model_dump())

    @property
    def request(self) -> TaskRequest:
        """The request for which the task was created."""
        same = TaskRequest.model_fields.keys() & Spec.model_fields.keys()
        return TaskRequest(item=self.item, **{name: getattr(self, name) for name in same})


class Condition(_Wire):
    """A condition as in Kubernetes' own API conventions."""

    type: str = Field(min_length=1, max_length=316)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(min_length=1, max_length=128)
    message: str = Field(default="", max_length=4096)
    last_transition_time: datetime
    observed_generation: int | None = None


class OutcomeType(StrEnum):
    """The result of an attempt: the value of its field `outcome`."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    RESTARTED = "Restarted"
    """The attempt needs another pod. It does not count."""
    DISRUPTED = "Disrupted"
    """The cluster removed the pod (eviction, node lost). The attempt does not count."""


class AttemptStatus(_Wire):
    """The record of one attempt. Each attempt has its own Job."""

    number: int = Field(ge=1)
    job: str = Field(max_length=63)
    start_time: datetime
    completion_time: datetime | None = None
    outcome: OutcomeType | None = None
    reason: str | None = Field(default=None, max_length=128)
    message: str | None = Field(default=None, max_length=1024)
    counted: bool = True
    transcript: str | None = Field(default=None, max_length=1024)
    transcript_url: str | None = Field(default=None, max_length=1024)
    tail: str | None = Field(default=None, max_length=2048)
    """The attempt's last steps; only the newest attempts keep them."""
    allowance: Allowance | None = None
    denied: tuple[Denial, ...] | None = Field(default=None, max_length=MAX_DENIALS)
    """Hosts that the egress proxy denied to the attempt."""
    answered: str | None = Field(default=None, max_length=64)
    """The position in the item's history that the attempt read last (`labels.Position`)."""
    usage: Usage | None = None


def shown_attempt(attempts: Sequence[AttemptStatus]) -> int:
    """Return the number of the newest attempt as people see it; 0 if no attempt has started.

    Attempts that do not count do not increase the number, except that the first attempt always has number 1.
    """
    return max(1, sum(attempt.counted for attempt in attempts)) if attempts else 0


def attempt_name(attempts: Sequence[AttemptStatus]) -> str:
    """Return the name of the newest attempt for messages, which explains a number above `maxAttempts`."""
    number = attempts[-1].number if attempts else 1
    free = sum(not attempt.counted for attempt in attempts[:-1])
    if not free:
        return f"Attempt {number}"
    return f"Attempt {number} ({free} earlier {'one does' if free == 1 else 'ones do'} not count)"


class TaskResult(_Wire):
    """The result of the task."""

    branch: str | None = Field(default=None, max_length=255)
    change_url: str | None = Field(default=None, max_length=2048)
    summary: str | None = Field(default=None, max_length=4096)
    usage: Usage | None = None
    commit: str | None = Field(default=None, max_length=64, pattern="^[0-9a-f]{40,64}$")
    """The commit that the newest attempt pushed."""
    verify: VerifyReport | None = None
    """The result of the commands that check the work, inside the attempt. `Status.verify` is the evidence."""
    round: Annotated[RoundReport | None, BeforeValidator(round_report)] = None
    """How a round ended, for the record of the change's rounds. Only the reporter reads it."""


class Status(_Wire):
    """The state of the task. `conditions` are authoritative; `phase` is derived from them for people."""

    conditions: tuple[Condition, ...] = ()
    item: str | None = Field(default=None, max_length=32)
    phase: Phase | None = None
    reason: str | None = Field(default=None, max_length=128)
    start_time: datetime | None = None
    completion_time: datetime | None = None
    duration: str | None = Field(default=None, max_length=16)
    """The time from start to completion for the printer column, because columns cannot compute."""
    kept_since: str | None = Field(default=None, max_length=10)
    """The day (UTC) on which the task ended, unless it has its own ttlSecondsAfterFinished. The sweep selects
    old tasks by this field."""
    queue_position: int | None = Field(default=None, ge=1)
    attempts: tuple[AttemptStatus, ...] = ()
    attempt: str | None = Field(default=None, max_length=16)
    counted_attempts: int | None = Field(default=None, ge=0)
    result: TaskResult | None = None
    environment: Environment | None = None
    """The environment that the repository's `.coding-agent.yaml` asked for, for the next attempt's pod."""
    verify: Annotated[Evidence | None, BeforeValidator(stored_evidence)] = None
    """The results of the commands on the pushed commit, in pods without the agent."""
    next_attempt_time: datetime | None = None
    observed_generation: int | None = None

    def condition(self, name: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == name), None)

    @property
    def terminal_phase(self) -> Phase | None:
        """How the task ended; `None` while it has not ended."""
        succeeded = self.condition("Succeeded")
        return terminal_phase(succeeded.status, succeeded.reason) if succeeded else None


class UnreadableTaskError(CodingAgentError):
    """The spec of an AgentTask does not fit the schema, because another release stored it.

    Attributes:
        why: what is wrong with the spec.
    """

    def __init__(self, name: str, error: ValueError) -> None:
        super().__init__(f"AgentTask {name} cannot be read: {error}")
        self.why = first_problem(error) if isinstance(error, ValidationError) else str(error)


@dataclass(frozen=True, eq=False)
class AgentTask:
    """An AgentTask as the API server stores it: metadata, spec and status.

    Spec and status are parsed when they are first read, because most tasks of a list are known already. Only
    the metadata can always be read: `spec` raises `UnreadableTaskError` if another release stored a different
    spec, and `status` leaves out unreadable parts.

    Example:
        task = AgentTask.of(body)
        task.metadata.labels, task.spec.item, task.status.phase
    """

    metadata: Metadata
    _body: Mapping[str, Any] | None = field(repr=False)

    @staticmethod
    def of(body: Mapping[str, Any]) -> AgentTask:
        """Return the task in an answer or a watch event of the API server."""
        return AgentTask(Metadata.of(body), body)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def version(self) -> str:
        return self.metadata.version

    @property
    def body(self) -> Mapping[str, Any]:
        """The task's JSON, for patches that depend on it. A task from a cache has none (`compact`)."""
        if self._body is None:
            raise RuntimeError(f"AgentTask {self.name} comes from a cache: read it again")
        return self._body

    @cached_property
    def spec(self) -> Spec:
        """The task's spec.

        Raises:
            UnreadableTaskError: the spec does not fit the schema.
        """
        try:
            spec = Spec.model_validate(self.body.get("spec") or {})
            _ = spec.item
        except ValueError as error:  # pydantic's errors are ValueErrors too
            raise UnreadableTaskError(self.name, error) from error
        return spec

    @property
    def readable(self) -> bool:
        """Whether the spec can be read."""
        try:
            _ = self.spec
        except UnreadableTaskError:
            return False
        return True

    @cached_property
    def _stored_status(self) -> tuple[Status, bool]:
        return _read_status(self.body.get("status"))

    @cached_property
    def status(self) -> Status:
        """The state of the task, without unreadable parts."""
        return self._stored_status[0]

    @property
    def intact(self) -> bool:
        """Whether the whole status could be read."""
        return self._stored_status[1]

    def compact(self) -> AgentTask:
        """Parse the task, drop its JSON, and return it, to save memory: a cache holds thousands of tasks.

        Raises:
            UnreadableTaskError: the spec cannot be read.
        """
        _ = self.spec, self.status, self.cancelled_by
        self.__dict__["_body"] = None
        return self

    @cached_property
    def ended(self) -> bool:
        """Whether the condition `Succeeded` is True or False: conditions are authoritative, not the phase."""
        return self.status.terminal_phase is not None

    @property
    def ended_at(self) -> datetime | None:
        """When the task ended; `None` if its status does not say so."""
        succeeded = self.status.condition("Succeeded")
        return self.status.completion_time or (succeeded.last_transition_time if succeeded else None)

    @property
    def over(self) -> bool:
        """Whether the task starts no further attempt, so that the item's next run may start."""
        return self.ended or self.metadata.deleting

    @property
    def reported(self) -> bool:
        """Whether the reporter has finished: the item shows the end of the task, and no rescan of its labels
        is due."""
        return self.metadata.labels.get(LABEL_REPORTED) in ("true", RESCAN)

    @property
    def labels_shown(self) -> bool:
        """Whether the item has shown our label swap at least once."""
        condition = self.status.condition("LabelsShown")
        return condition is not None and condition.status == "True"

    @cached_property
    def item_hash(self) -> str:
        """The hash of the item's identity, from the spec, because a person can change the label."""
        return identity_hash(self.spec.item.identity)

    @cached_property
    def repository_hash(self) -> str:
        """The hash of the repository's identity, from the spec."""
        return identity_hash(self.spec.item.repository_identity)

    @property
    def missing_labels(self) -> dict[str, str]:
        """The labels that every task of this item should have and that this task lacks."""
        labels = self.metadata.labels
        return {key: value for key, value in labels_for(self.spec.item).items() if labels.get(key) != value}

    @cached_property
    def cancelled_by(self) -> str:
        """The field manager that set `spec.cancel`; empty if it is not known."""
        return manager_of(self.body, "cancel") if self.spec.cancel else ""

    def newly_ended(self, new: Status) -> list[AttemptStatus]:
        """Return the attempts that have ended in the new status but not in this task's status."""
        known = {attempt.number for attempt in self.status.attempts if attempt.outcome is not None}
        return [attempt for attempt in new.attempts if attempt.outcome and attempt.number not in known]


def _read_status(raw: Any) -> tuple[Status, bool]:
    """Return the status without unreadable parts, and whether it had none."""
    if not isinstance(raw, Mapping):
        return Status(), raw is None
    intact = True
    try:
        status = Status.model_validate(raw)
    except ValidationError:
        intact = False
        entries: dict[str, type[BaseModel]] = {"conditions": Condition, "attempts": AttemptStatus}
        readable = {
            name: [entry for entry in value if _fits(entries[name], entry)]
            if name in entries and isinstance(value, list)
            else value
            for name, value in raw.items()
        }
        status = Status.model_validate(
            {name: value for name, value in readable.items() if _fits(Status, {name: value})}
        )
    attempts = {attempt.number: attempt for attempt in status.attempts}
    unique = tuple(attempts[number] for number in sorted(attempts))
    if unique != status.attempts:
        return status.model_copy(update={"attempts": unique}), False
    return status, intact


def _fits(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def duration(start: datetime, end: datetime) -> str:
    """Return the time between two moments as kubectl writes it: `45s`, `3m12s`, `2h5m`, `3d4h`."""
    seconds = max(0, round((end - start).total_seconds()))
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    big = next((number for number, (_, size) in enumerate(units) if seconds >= size), 3)
    parts = [f"{seconds // units[big][1]}{units[big][0]}"]
    if big < 3 and (rest := seconds % units[big][1] // units[big + 1][1]):
        parts.append(f"{rest}{units[big + 1][0]}")
    return "".join(parts)


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about a task, its Job, or the pod of a program."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def labels_for(item: Item) -> dict[str, str]:
    return {
        LABEL_PLATFORM: item.platform.value,
        LABEL_REPOSITORY: identity_hash(item.repository_identity),
        LABEL_ITEM: identity_hash(item.identity),
        LABEL_DEFAULTED: "true",
    }


def manifest(
    request: TaskRequest,
    *,
    run: int,
    timeout_seconds: int | None = None,
    max_attempts: int | None = None,
    model: str | None = None,
    instructions: str | None = None,
    answered: str | None = None,
) -> dict[str, Any]:
    """Return the AgentTask to create for a request.

    Its name depends only on item and run, or on a round's cause. So the API server refuses a second task for
    the same run.

    Args:
        timeout_seconds, max_attempts: the task's limits; `None` for the operator's defaults.
        answered: the position that the run answers, if the item's history was read for it.
    """
    item, trigger = request.item, request.trigger
    options = {
        "timeoutSeconds": timeout_seconds,
        "maxAttempts": max_attempts,
        "model": model,
        "runner": None if request.runner is None else request.runner.value,
        "instructions": instructions,
    }
    spec = {
        "source": Source.of(item).to_wire(),
        "user": request.user,
        "title": request.title,
        "url": request.url,
        "trigger": trigger.model_dump(mode="json", by_alias=True, exclude_none=True),
        "run": run,
        **({"trusted": True} if request.trusted else {}),
        **{name: value for name, value in options.items() if value is not None},
    }
    annotations = {ANNOTATION_ANSWERED: answered} if answered is not None else {}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": task_name(item, run, round_part=trigger.name_part),
            "labels": labels_for(item),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec,
    }
