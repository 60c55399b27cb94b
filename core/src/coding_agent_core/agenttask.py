"""The AgentTask custom resource as Python types; a test holds them against `crds/agenttask.yaml`.

Field names in Python are snake_case, on the wire camelCase as Kubernetes has it (`to_wire`, `from_wire`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from coding_agent_core.egress import MAX_DENIALS, Denial
from coding_agent_core.environment import Environment
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import (
    Item,
    Origin,
    Phase,
    RunnerName,
    TaskRequest,
    Trigger,
    identity_hash,
    item_of,
    task_name,
    terminal_phase,
)
from coding_agent_core.usage import Allowance, Usage

GROUP, VERSION, PLURAL, KIND = "coding-agent.dev", "v1alpha1", "agenttasks", "AgentTask"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_PLATFORM = f"{GROUP}/platform"
LABEL_REPOSITORY = f"{GROUP}/repository"
"""The hash of the repository's identity: label values cannot hold a slash or 63 characters of path."""
LABEL_ITEM = f"{GROUP}/item"
"""The hash of the item's identity: finds all runs of an item."""
LABEL_DEFAULTED = f"{GROUP}/defaulted"
"""`true` if the spec and the labels are complete: the receiver's are, others the operator completes."""
LABEL_REPORTED = f"{GROUP}/reported"
"""`true` once the end of the task is shown on its item: the reporter watches all others."""
LABEL_ACTIVE = f"{GROUP}/active"
"""On Jobs: `true` until the end of the attempt is recorded. A watch or a restart reads no others."""
LABEL_TASK = f"{GROUP}/task"
"""On Jobs and pods: the task's name."""
LABEL_ATTEMPT = f"{GROUP}/attempt"
"""On Jobs and pods: the number of the attempt, from 1."""
ANNOTATION_LABELED_AT = f"{GROUP}/labeled-at"
"""Applications of the label up to this time, by the forge's clock, are this task's. Later deliveries move
it, and so does the reporter before it takes the label off."""
ANNOTATION_WITHDRAWN_BEFORE = f"{GROUP}/withdrawn-before"
"""Applications of the label before this time, by the forge's clock, were withdrawn with this task."""
ANNOTATION_CHECK_LABEL = f"{GROUP}/check-label"
"""Why a withdrawal may be older or newer than the label: the reporter reads the item, and removes this."""
ANNOTATION_DELIVERIES = f"{GROUP}/deliveries"
"""Further delivery ids that this task answers for, comma-separated, the newest 20."""
ANNOTATION_CANCELLED = f"{GROUP}/cancelled-because"
"""Why a task was cancelled, as half a sentence for people: `alice cancelled it with a comment`."""
ANNOTATION_NEXT_RUN_AT = f"{GROUP}/next-run-at"
"""On an item's run 1: when a further run was last about to be created."""
ANNOTATION_DUPLICATE_OF = f"{GROUP}/duplicate-of"
"""Name of the task that answers for the label application that this task was created for."""

ANNOTATION_CREATED_BY = f"{GROUP}/created-by"
"""The account that created a task by hand; an admission policy of the chart refuses any other name."""

ANNOTATION_ALLOWANCE = f"{GROUP}/allowance"
"""On Jobs: what the attempt may spend, as JSON."""
ANNOTATION_TRANSCRIPT = f"{GROUP}/transcript"
"""On Jobs: where the attempt keeps its transcript; written first, because a killed agent reports nothing."""
ANNOTATION_TRANSCRIPT_URL = f"{GROUP}/transcript-url"

_ALIASES = {
    "delivery_id": "deliveryID",
    "change_url": "changeURL",
    "project_id": "projectID",
    "transcript_url": "transcriptURL",
}


NOT_ENDED = ",".join(f"status.phase!={phase.value}" for phase in Phase if phase.terminal)
"""Field selector of the tasks that have not ended: a watch or a restart does not read all that ever ran."""
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
        """As the API server has it: JSON types, unset fields left out."""
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
        # The schema: a task that a person wrote has none.
        return {"cause": None, **trigger} if isinstance(trigger, Mapping) else trigger

    @property
    def item(self) -> Item:
        return Item(**self.source.model_dump())


class Condition(_Wire):
    """A condition as in Kubernetes' own API conventions."""

    type: str = Field(min_length=1, max_length=316)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(min_length=1, max_length=128)
    message: str = Field(default="", max_length=4096)
    last_transition_time: datetime
    observed_generation: int | None = None


class OutcomeType(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    RESTARTED = "Restarted"
    """It needs another pod; does not count as an attempt."""
    DISRUPTED = "Disrupted"
    """The cluster took the pod away (eviction, node lost); does not count as an attempt."""


class AttemptStatus(_Wire):
    """One attempt: one Job."""

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
    """Only the newest attempts keep it."""
    allowance: Allowance | None = None
    denied: tuple[Denial, ...] | None = Field(default=None, max_length=MAX_DENIALS)
    """Hosts that the egress proxy has denied to it."""
    answered_until: datetime | None = None
    """As in `Outcome`."""
    usage: Usage | None = None


def shown_attempt(attempts: Sequence[AttemptStatus]) -> int:
    """Number of the newest attempt among those that count, as shown to people; 0: none has started.

    An attempt that does not count is followed by one of the same number. It is the first until then.
    """
    return max(1, sum(attempt.counted for attempt in attempts)) if attempts else 0


class TaskResult(_Wire):
    """The result of the task."""

    branch: str | None = Field(default=None, max_length=255)
    change_url: str | None = Field(default=None, max_length=2048)
    summary: str | None = Field(default=None, max_length=4096)
    usage: Usage | None = None


class Status(_Wire):
    """The state of the task. `conditions` are the truth; `phase` is derived from them for people."""

    conditions: tuple[Condition, ...] = ()
    item: str | None = Field(default=None, max_length=32)
    phase: Phase | None = None
    reason: str | None = Field(default=None, max_length=128)
    start_time: datetime | None = None
    completion_time: datetime | None = None
    duration: str | None = Field(default=None, max_length=16)
    """From start to completion, for the printer column: columns cannot compute."""
    kept_since: str | None = Field(default=None, max_length=10)
    """The day (UTC) on which a task ended that is kept as long as usual: the sweep lists only what is old."""
    queue_position: int | None = Field(default=None, ge=1)
    attempts: tuple[AttemptStatus, ...] = ()
    attempt: str | None = Field(default=None, max_length=16)
    counted_attempts: int | None = Field(default=None, ge=0)
    result: TaskResult | None = None
    environment: Environment | None = None
    """That the repository's `.coding-agent.yaml` asked for: the next attempt's pod gets it."""
    next_attempt_time: datetime | None = None
    observed_generation: int | None = None

    def condition(self, name: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == name), None)

    @property
    def terminal_phase(self) -> Phase | None:
        """How the task ended; `None` while it has not ended."""
        succeeded = self.condition("Succeeded")
        return terminal_phase(succeeded.status, succeeded.reason) if succeeded else None


def duration(start: datetime, end: datetime) -> str:
    """From one to the other as kubectl writes it: `45s`, `3m12s`, `2h5m`, `3d4h`."""
    seconds = max(0, round((end - start).total_seconds()))
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    big = next((number for number, (_, size) in enumerate(units) if seconds >= size), 3)
    parts = [f"{seconds // units[big][1]}{units[big][0]}"]
    if big < 3 and (rest := seconds % units[big][1] // units[big + 1][1]):
        parts.append(f"{rest}{units[big + 1][0]}")
    return "".join(parts)


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about a task or its Job."""

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
) -> dict[str, Any]:
    """The AgentTask to create for a request; its name is the same for the same item and run.

    Args:
        timeout_seconds: `None`: the operator's default; `max_attempts` alike.
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
    annotations = (
        {ANNOTATION_LABELED_AT: trigger.labeled_at.isoformat()} if trigger.labeled_at is not None else {}
    )
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": task_name(item, run),
            "labels": labels_for(item),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec,
    }


def completion(
    body: Mapping[str, Any], *, run: int, timeout_seconds: int, max_attempts: int
) -> dict[str, Any] | None:
    """The merge patch that fills in what the author of a task left out; `None` if nothing is missing.

    Args:
        run: number of the item's next run.

    Raises:
        ValueError: the spec does not name an item, or does not fit the schema.
    """
    given, spec = body.get("spec") or {}, parse_spec(body)
    created = body["metadata"]["creationTimestamp"]
    filled = {
        "source": spec.source.to_wire(),
        "trigger": {"origin": Origin.MANUAL.value, "receivedAt": created},
        "run": run,
        "timeoutSeconds": timeout_seconds,
        "maxAttempts": max_attempts,
    }
    labels = body["metadata"].get("labels") or {}
    missing_labels = {k: v for k, v in labels_for(spec.item).items() if labels.get(k) != v}
    missing = {name: value for name, value in filled.items() if name not in given}
    if not missing_labels and not missing:
        return None
    return {"metadata": {"labels": missing_labels}, "spec": missing}


def parse_spec(body: Mapping[str, Any]) -> Spec:
    """The spec of an AgentTask as read from the API server.

    Raises:
        ValueError: it does not fit the schema (it was stored by another release).
    """
    return Spec.model_validate(body.get("spec") or {})


def conditions_patch(
    body: Mapping[str, Any], wanted: Sequence[Condition], now: datetime
) -> list[dict[str, Any]] | None:
    """The JSON patch that sets conditions on exactly this version of a task; `None`: they are set already.

    The operator replaces the whole status, the reporter the list of conditions; both test the resourceVersion
    that they have read. Whoever comes second is refused, reads again and decides again: no change is lost.
    """
    status = body.get("status")
    stored: list[dict[str, Any]] = list((status or {}).get("conditions") or [])
    result, changed = list(stored), False
    for condition in wanted:
        known = next((c for c in stored if c.get("type") == condition.type), None)
        if known is not None and _same(known, condition):
            continue
        changed = True
        entry = {
            **condition.to_wire(),
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "observedGeneration": body["metadata"].get("generation", 1),
        }
        if known is not None and known.get("status") == condition.status:
            entry["lastTransitionTime"] = known["lastTransitionTime"]
        result = [c for c in result if c.get("type") != condition.type] + [entry]
    if not changed:
        return None
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": body["metadata"]["resourceVersion"]}
    if status is None:
        return [test, {"op": "add", "path": "/status", "value": {"conditions": result}}]
    return [test, {"op": "add", "path": "/status/conditions", "value": result}]


def _same(known: Mapping[str, Any], wanted: Condition) -> bool:
    return (known.get("status"), known.get("reason"), known.get("message", "")) == (
        wanted.status,
        wanted.reason,
        wanted.message,
    )
