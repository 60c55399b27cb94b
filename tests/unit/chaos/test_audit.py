"""The audit log as records: one namespace, writes only, and what a killed API server did not log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chaos import audit

NAMESPACE = "agents"
AT = "2026-01-01T00:10:00+00:00"


def event(verb: str, resource: str = "agenttasks", *, namespace: str = NAMESPACE, **more: Any) -> str:
    entry = {
        "verb": verb,
        "stage": "ResponseComplete",
        "stageTimestamp": "2026-01-01T00:00:00+00:00",
        "objectRef": {"resource": resource, "namespace": namespace, "name": "one"},
        "responseStatus": {"code": 200},
    }
    return json.dumps(entry | more)


def task(name: str, phase: str) -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": "2026-01-01T00:05:00Z"}
    return {"metadata": metadata, "status": {"phase": phase}}


def test_only_whole_lines_about_writes_in_the_namespace_are_records(tmp_path: Path) -> None:
    lines = [
        event("create"),
        event("get"),
        event("create", "secrets"),
        event("create", namespace="others"),
        event("create")[:-20],
        event("delete", "pods", requestObject={"gracePeriodSeconds": 0}),
    ]
    (tmp_path / "audit-2026-01-01T00-00-00.000.jsonl").write_text("\n".join(lines[:3]) + "\n")
    (tmp_path / "audit.jsonl").write_text("\n".join(lines[3:]) + "\n")
    found = list(audit.records(tmp_path, NAMESPACE, [], AT))
    assert [(one["record"], one["verb"]) for one in found] == [("audit", "create"), ("audit", "delete")]
    assert found[1]["requestObject"] == {"gracePeriodSeconds": 0}


def test_what_is_stored_and_was_not_logged_is_added(tmp_path: Path) -> None:
    logged = [
        event("create", responseObject=task("one", "")),
        event("patch", responseObject=task("one", "Running")),
    ]
    (tmp_path / "audit.jsonl").write_text("\n".join(logged) + "\n")
    stored = [task("one", "Succeeded"), task("two", "Running")]
    added = list(audit.records(tmp_path, NAMESPACE, stored, AT))[2:]
    assert [(one["objectRef"]["name"], one["verb"], one["stageTimestamp"]) for one in added] == [
        ("one", "patch", AT),
        ("two", "create", "2026-01-01T00:05:00Z"),
        ("two", "patch", AT),
    ]
