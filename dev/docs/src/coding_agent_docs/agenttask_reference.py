"""The page about AgentTask: its fields from the CustomResourceDefinition, its conditions, reasons and Events.

The meaning of conditions, waiting reasons and Events is written here, because the code has no text for it. A
test holds these three tables equal to what the operator and the reporter set. Troubleshooting has the reasons
of attempts that have ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from coding_agent_docs.errors import DocsError
from coding_agent_docs.paths import CRD

Schema = Mapping[str, Any]
"""A node of the OpenAPI schema in the CustomResourceDefinition."""

CONDITIONS = {
    "Finished": (
        "`True` once the task has ended, with the reason `Succeeded`, `Failed` or `Cancelled`. "
        "Before: `False`, `NotFinished`"
    ),
    "Succeeded": (
        "`Unknown` until the end, then `True` or `False`. "
        "Its reason and message are those that the task shows"
    ),
    "Running": (
        "`True` while an attempt runs (`AgentStarted`); `False` with `NoJob`, `PodStarting` or `JobSuspended`"
    ),
    "WithinBudget": "`False` while a [budget](../operations/budgets.md) keeps the task waiting",
    "LabelsShown": "`True` once the item has shown our labels. A trigger label after that asks for a new run",
    "Reported": "`False` while [the item cannot be updated](../labels.md#the-reporter); the reason says why",
}
"""The meaning of each condition."""

WAITING = {
    "Waiting": "Queued: the task waits for its turn",
    "WaitingForRun": "Queued: the item's older run has not ended",
    "WaitingForBudget": "Queued: too little is left of a budget",
    "WaitingForKueue": "Queued: Kueue has not admitted the attempt's Job",
    "CommandPending": "Queued: somebody wrote `/cancel`, and it is not checked yet whether they may",
    "Refused": "Queued: the API server refuses the attempt's Job, for example because of a ResourceQuota",
    "OperatorDefect": "any phase: a defect stops the operator's work on the task; its log has more",
    "JobSuspended": "Queued: somebody suspended the attempt's Job",
    "Starting": "Starting: the attempt's pod does not run yet",
    "Running": "Running: the agent works",
    "Verifying": "Running: the work is pushed, and its verification runs",
    "Cancelling": "the task is being cancelled; its attempt is ending",
    "Suspending": "the task is being suspended; its attempt is ending",
    "Suspended": "Suspended: `spec.suspend` is set",
    "Backoff": "Backoff: the last attempt gave no reason. Usually its reason is here",
}
"""Reasons of a task that has not ended, with the phase."""

EVENTS = {
    "Queued": "the task was accepted",
    "Started": "an attempt runs",
    "AttemptStopping": "an attempt is being stopped, and why",
    "AttemptSucceeded": "an attempt ended; the task goes on",
    "AttemptFailed": "an attempt failed, with its reason",
    "AttemptCancelled": "an attempt was stopped by a cancellation",
    "AttemptRestarted": "the attempt needs another pod and does not count",
    "AttemptDisrupted": "the cluster removed the pod; the attempt does not count",
    "Retrying": "another attempt follows, and when",
    "Preempted": "Kueue has suspended the attempt, which goes on later",
    "Suspended": "no further attempt starts",
    "Resumed": "the task is no longer suspended",
    "Succeeded": "the task ended with success",
    "Failed": "the task ended without success, with its reason",
    "Cancelled": "the task was cancelled, and why",
    "Refused": "the API server refuses the attempt's Job",
    "OperatorDefect": "a defect stops the operator's work on the task, with the class of the error",
    "InvalidSpec": "the spec cannot be used, and why",
    "ForeignJob": "a Job of another owner has the attempt's name",
    "OrphanedJob": "on a Job: no AgentTask owns it",
    "CacheUnavailable": "the attempt starts without its [cache](../cache.md)",
    "ItemClosed": "the item was closed, so the task is cancelled",
    "LabelRemoved": "the item has none of our labels, so the task is cancelled",
    "LabelAppliedAgain": "the label was applied again, so a new run starts",
    "Duplicate": "another run of the item is active, so this one is cancelled",
    "ForgeUnavailable": "the item cannot be updated: the forge does not answer",
    "ForgeRefused": "the item cannot be updated: the forge refuses",
    "ForgeNotConfigured": "the item cannot be updated: there is no token for its host",
    "ItemNotFound": "the item is gone, or the token cannot see it",
    "ChangeSetAside": "a change cannot be examined for [rounds](../after-the-pull-request.md), and why",
    "TokenExpiresSoon": "on the reporter's pod: a forge's token expires within two weeks",
    "TokenExpired": "on the reporter's pod: a forge's token has expired",
}
"""The meaning of each Event."""

_POD_EVENT = "\nIf the pod of an attempt does not end, the task has an Event with that reason of attempts.\n"
_ENDED = """
## Reasons of attempts and of ended tasks

[Troubleshooting](../troubleshooting.md#failed) has these reasons: whether another attempt follows, what they
mean and what to do.
"""


def agenttask_page(head: str) -> str:
    """Return the page of AgentTask, which begins with `head`.

    Raises:
        DocsError: a field of the CustomResourceDefinition has no description.
    """
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    [version] = crd["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]
    described: dict[str, str] = {}
    return (
        head
        + "".join(_object("spec", fields["spec"], described))
        + "".join(_object("status", fields["status"], described))
        + _table("Conditions", "condition", CONDITIONS)
        + _table("Reasons of a task that has not ended", "reason", WAITING)
        + _ENDED
        + _table("Events", "Event", EVENTS)
        + _POD_EVENT
    )


def _object(path: str, schema: Schema, described: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a section for the object, and of one for each object in it.

    `described` has the section of each set of fields. Fields that have a section are not listed again.
    """
    yield f"\n## {path}\n\n{schema['description']}\n"
    fields = json.dumps([schema["properties"], schema.get("required", [])])
    first = described.setdefault(fields, path)
    if first != path:
        yield f"\nIt has the fields of `{first}`.\n"
        return
    yield "\n| field | type | default | meaning |\n|---|---|---|---|\n"
    required = schema.get("required", [])
    inner: list[tuple[str, Schema]] = []
    for name, field in schema["properties"].items():
        if "description" not in field:
            raise DocsError(f"{CRD.name}: {path}.{name} has no description")
        default = "required" if name in required else _default(field)
        yield f"| `{name}` | {_type(field)} | {default} | {_cell(field['description'])} |\n"
        items = field.get("items", {})
        if "properties" in field:
            inner.append((f"{path}.{name}", field))
        elif "properties" in items:
            inner.append((f"{path}.{name}[]", {**items, "description": field["description"]}))
    for place, field in inner:
        yield from _object(place, field, described)


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(field: Schema) -> str:
    """Return the type as the reference of the settings writes it. The limit of a string is in characters."""
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("format") == "date-time":
        return "time"
    if field["type"] == "array":
        return f"list ≤ {field['maxItems']}: {_type(field['items'])}"
    if field["type"] == "object" and "additionalProperties" in field:
        return f"map ≤ {field['maxProperties']}: {_type(field['additionalProperties'])}"
    limits = {"≥": field.get("minimum"), "≤": field.get("maximum", field.get("maxLength"))}
    shown = ", ".join(f"{sign} {limit}" for sign, limit in limits.items() if limit is not None)
    return f"{field['type']} {shown}".strip()


def _table(title: str, name: str, rows: Mapping[str, str]) -> str:
    body = "".join(f"| `{key}` | {meaning} |\n" for key, meaning in rows.items())
    return f"\n## {title}\n\n| {name} | meaning |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
