"""What the targets share: the parts of an input, and an AgentTask as an API server stores it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.agenttask import API_VERSION, KIND, AgentTask
from jsonschema import Draft7Validator, FormatChecker

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CRD = yaml.safe_load((Path(__file__).parents[2] / "crds" / "agenttask.yaml").read_text())
_FORMATS = FormatChecker(())
_STORES = Draft7Validator(_CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"], format_checker=_FORMATS)


@_FORMATS.checks("date-time")
def _is_time(value: object) -> bool:
    """Whether the API server takes a text as a time; it requires the time zone."""
    return not isinstance(value, str) or bool(_TIME.fullmatch(value))


def header_of(data: bytes) -> tuple[str, bytes]:
    """Split an input into its first line, as ASGI servers decode headers, and the rest."""
    head, _, rest = data.partition(b"\n")
    return head.decode("latin-1"), rest


def at_most(length: int, limit: int) -> None:
    """Require that what was made of an input is bounded."""
    assert length <= limit, f"{length} of at most {limit}"


def stored(spec: Any, status: Any = None, annotations: Mapping[str, str] | None = None) -> AgentTask:
    """Return an AgentTask with the metadata that the API server adds."""
    metadata = {
        "name": "demo-issue-7-0123456789abcdef",
        "namespace": "default",
        "uid": "5c8b3b4e-0000-4000-8000-000000000000",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": "2026-11-25T12:00:00Z",
        "annotations": dict(annotations or {}),
    }
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}
    return AgentTask.of(body if status is None else {**body, "status": status})


def refusals(task: Mapping[str, Any]) -> list[str]:
    """Return why the API server would refuse an AgentTask, by the schema of the resource."""
    return [f"{error.json_path}: {error.message[:200]}" for error in _STORES.iter_errors(task)]


def written(value: object) -> bytes:
    """Return a value as the JSON of a request; one that is not JSON in UTF-8 is an error."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
