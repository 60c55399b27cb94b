"""Prints AgentTasks in the formats of kubectl's `-o`: as tables, JSON, YAML or names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from coding_agent_core.task.agenttask import GROUP, KIND, AgentTask
from rich.console import Console

from kubectl_agenttask.argument_types import Format


def show_task(to: Console, task: AgentTask, form: Format) -> None:
    """Print one task in one of `OBJECTS`."""
    _print(to, _name(task) if form is Format.NAME else _text(_stored(task.body), form))


def show_tasks(to: Console, tasks: Sequence[AgentTask], form: Format) -> None:
    """Print tasks in one of `OBJECTS`; as a `List`, which kubectl prints and reads too."""
    if form is Format.NAME:
        for task in tasks:
            _print(to, _name(task))
        return
    items = [_stored(task.body) for task in tasks]
    _print(to, _text({"apiVersion": "v1", "kind": "List", "items": items}, form))


def show_facts(to: Console, facts: Mapping[str, Any], form: Format) -> None:
    """Print facts that are not an AgentTask, as JSON or YAML."""
    _print(to, _text(facts, form))


def _name(task: AgentTask) -> str:
    """Return the name as kubectl's `-o name` prints it, which kubectl and this plugin accept."""
    return f"{KIND.lower()}.{GROUP}/{task.name}"


def _stored(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored object without the managed fields, which kubectl does not print either."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    return {**body, "metadata": metadata}


def _text(body: Mapping[str, Any], form: Format) -> str:
    # Both formats escape the control characters in texts of strangers.
    if form is Format.JSON:
        return json.dumps(body, indent=4)
    return yaml.safe_dump(dict(body), allow_unicode=True).rstrip("\n")


def _print(to: Console, text: str) -> None:
    to.print(text, soft_wrap=True)
