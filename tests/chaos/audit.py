"""The API server's audit log of one namespace, as records of a history."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

AUDITED = {
    "coding-agent.dev": ("agenttasks", "agenttasks/status"),
    "batch": ("jobs", "jobs/status"),
    "": ("pods", "pods/status", "pods/eviction"),
}
"""What a cluster's audit log must have with bodies."""
_RESOURCES = frozenset({"agenttasks", "jobs", "pods"})
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


def records(
    logs: Path, namespace: str, tasks: Sequence[Mapping[str, Any]], at: str
) -> Iterator[dict[str, Any]]:
    """The writes to the namespace's AgentTasks, Jobs and pods, oldest first.

    An API server that is killed may have stored what it has not logged yet. What the stored tasks show and
    the log does not is added at the end: otherwise a task that exists would count as lost.

    Args:
        logs: the folder of the log, and of its older parts.
        tasks: the AgentTasks that are stored at the end of the run.
        at: the time of what is added, if the object does not say when it was created.
    """
    created: set[str] = set()
    phases: dict[str, str] = {}
    for event in _events(logs, namespace):
        about, body = event["objectRef"], event.get("responseObject") or {}
        if about["resource"] == "agenttasks" and event["responseStatus"]["code"] < 300:
            name = about.get("name") or body.get("metadata", {}).get("name", "")
            if event["verb"] == "create":
                created.add(name)
            if phase := body.get("status", {}).get("phase"):
                phases[name] = phase
        yield {"record": "audit", **event}
    yield from _unlogged(tasks, created, phases, namespace, at)


def _unlogged(
    tasks: Iterable[Mapping[str, Any]],
    created: set[str],
    phases: Mapping[str, str],
    namespace: str,
    at: str,
) -> Iterator[dict[str, Any]]:
    for task in tasks:
        name = task["metadata"]["name"]
        common = {
            "record": "audit",
            "stage": "ResponseComplete",
            "responseStatus": {"code": 200},
            "user": {"username": "not logged: read at the end"},
            "responseObject": task,
        }
        about = {"resource": "agenttasks", "namespace": namespace, "name": name}
        if name not in created:
            made = task["metadata"]["creationTimestamp"]
            yield {**common, "verb": "create", "stageTimestamp": made, "objectRef": about}
        if task.get("status", {}).get("phase", "") != phases.get(name, ""):
            status = {**about, "subresource": "status"}
            yield {**common, "verb": "patch", "stageTimestamp": at, "objectRef": status}


def _events(logs: Path, namespace: str) -> Iterator[dict[str, Any]]:
    # The parts that were full carry the time in their names, and sort before the one that is written.
    for file in sorted(logs.glob("audit-*.jsonl")) + sorted(logs.glob("audit.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if f'"{namespace}"' not in line:
                    continue
                try:
                    event: dict[str, Any] = json.loads(line)
                except ValueError:  # the API server was killed as it wrote this
                    continue
                about = event.get("objectRef") or {}
                if (
                    about.get("namespace") == namespace
                    and about.get("resource") in _RESOURCES
                    and event["verb"] in _WRITES
                    and event["stage"] == "ResponseComplete"
                ):
                    yield _without_bulk(event)


def _without_bulk(event: dict[str, Any]) -> dict[str, Any]:
    """Without what no reader of a history needs, and what is by far the most of it."""
    for name in ("annotations", "userAgent", "sourceIPs", "level", "apiVersion", "kind"):
        event.pop(name, None)
    for side in ("requestObject", "responseObject"):
        body = event.get(side)
        if isinstance(body, dict):
            body.get("metadata", {}).pop("managedFields", None)
            if event["objectRef"]["resource"] != "agenttasks":
                body.pop("spec", None)
    return event
