"""What a cluster stores: AgentTasks, pods, and what an attempt gets and leaves."""

from __future__ import annotations

import json
import re
from typing import Any

from coding_agent_consumer.item.background import read_file
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Links, Report, State, comment, read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.agenttask import (
    AgentTask,
    Condition,
    Status,
    UnreadableTaskError,
    duration,
    shown_attempt,
)
from coding_agent_core.task.agenttask_patches import completion, conditions_patch
from coding_agent_core.task.attempts import AttemptInput, Outcome
from coding_agent_core.task.commands import (
    ANNOTATION_COMMANDS,
    IssueCommand,
    cancel_asked,
    executed,
    next_command,
    store,
    stored_commands,
)
from coding_agent_core.task.environment import MAX_FILE_BYTES, EnvironmentFileError
from coding_agent_core.task.model import CommandName, Phase
from coding_agent_operator.cluster.observed import Job, read_pod
from coding_agent_operator.tasks.state import result_of, started_attempt, with_report
from jsonschema import Draft7Validator

from tests.fixtures.deliveries import NOW, issue
from tests.fuzz.bounds import at_most, refusals, stored, written

_LABELS = Settings().labels(Platform.GITHUB)
_LINKS = Links("https://github.com", "coding-agent/")
_STATUS_BYTES = 128 * 1024
"""A part of what the API server stores of one object: 1.5 MiB."""
_COMMENT = 65_536
"""The most characters of a comment on GitHub."""


def agent_task(data: bytes) -> bool:
    """A JSON object with `spec`, `status` and `annotations` of an AgentTask that another release stored."""
    body = _object(data)
    given, notes = body.get("spec"), body.get("annotations")
    annotations = (
        {name: note for name, note in notes.items() if isinstance(note, str)}
        if isinstance(notes, dict)
        else None
    )
    task = stored(given if isinstance(given, dict) else {}, body.get("status"), annotations)
    status = task.status
    shown_attempt(status.attempts)
    numbers = [attempt.number for attempt in status.attempts]
    assert numbers == sorted(set(numbers))
    if status.start_time and status.completion_time:
        at_most(len(duration(status.start_time, status.completion_time)), 16)
    _check_conditions(task)
    commands = stored_commands(task)
    assert next_command(task) is None or next_command(task) in commands
    assert (cancel_asked(task) is None) == all(entry.name is not CommandName.CANCEL for entry in commands)
    for entry in commands[:1]:
        patch = executed(task, entry, stopped=True)
        assert ANNOTATION_COMMANDS in patch["metadata"]["annotations"]
        at_most(len(written(patch)), 2 * len(data) + 1_000)
    try:
        spec = task.spec
    except UnreadableTaskError as error:
        at_most(len(error.why), 2 * len(data) + 1_000)
        assert not task.readable
        return False
    patch = completion(task, run=1, timeout_seconds=3600, max_attempts=3) or {}
    at_most(len(written(patch)), 4 * len(data) + 2_000)
    if patch:
        filled = AgentTask.of({**task.body, "spec": {**(task.body["spec"]), **patch["spec"]}})
        assert filled.spec.item == spec.item
    command = IssueCommand(name=CommandName.RUN, comment="1", user="alice", received_at=NOW, item=spec.item)
    asked = store(task, command)
    if isinstance(asked, dict):
        at_most(len(written(asked)), 2 * len(data) + 2_000)
    kept = task.compact()
    assert (kept.spec, kept.status) == (spec, status)
    return True


def _check_conditions(task: AgentTask) -> None:
    wanted = [
        Condition(type=name, status="True", reason="Test", message="It is so.", last_transition_time=NOW)
        for name in ("LabelsShown", "CommentShown")
    ]
    changes = conditions_patch(task, wanted, NOW)
    if changes is not None:
        at_most(len(written(changes)), 3_000)
        assert changes[0]["op"] == "test"
        patched = _patched(task, changes[1:])
        assert {one.type for one in wanted} <= {one.type for one in patched.conditions}


def _patched(task: AgentTask, changes: list[dict[str, Any]]) -> Status:
    """Apply the operations of a patch of conditions, as an API server does."""
    body = json.loads(json.dumps(task.body))
    for change in changes:
        *folders, name = change["path"].strip("/").split("/")
        place = body
        for folder in folders:
            place = place[folder]
        if not isinstance(place, list):
            place[name] = change["value"]
        elif change["op"] == "add":
            place.append(change["value"])
        else:
            place[int(name)] = change["value"]
    return AgentTask.of(body).status


_TEXT, _OBJECT = {"type": "string"}, {"type": "object"}
_TIMES = {"type": "string", "format": "date-time"}
_STATE = {
    **_OBJECT,
    "properties": {
        "waiting": {**_OBJECT, "properties": {"reason": _TEXT, "message": _TEXT}},
        "running": {**_OBJECT, "properties": {"startedAt": _TIMES}},
        "terminated": {
            **_OBJECT,
            "properties": {"exitCode": {"type": "integer"}, "reason": _TEXT, "message": _TEXT},
            "required": ["exitCode"],
        },
    },
}
_STATUSES = {
    "type": "array",
    "items": {**_OBJECT, "properties": {"name": _TEXT, "state": _STATE}, "required": ["name"]},
}
_CONDITION = {
    **_OBJECT,
    "properties": dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime"), _TEXT),
    "required": ["type", "status"],
}
_POD = Draft7Validator(
    {
        **_OBJECT,
        "properties": {
            "metadata": {
                **_OBJECT,
                "properties": {
                    **dict.fromkeys(("name", "namespace", "uid", "resourceVersion"), _TEXT),
                    **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), _TEXT),
                    "generation": {"type": "integer"},
                    "labels": {**_OBJECT, "additionalProperties": _TEXT},
                    "annotations": {**_OBJECT, "additionalProperties": _TEXT},
                },
            },
            "spec": {**_OBJECT, "properties": {"nodeName": _TEXT}},
            "status": {
                **_OBJECT,
                "properties": {
                    **dict.fromkeys(("phase", "reason", "message"), _TEXT),
                    "conditions": {"type": "array", "items": _CONDITION},
                    "containerStatuses": _STATUSES,
                    "initContainerStatuses": _STATUSES,
                },
            },
        },
        "required": ["metadata"],
    }
)
"""The types of a pod's fields, which the API server holds to."""


def pod(data: bytes) -> bool:
    """A pod as JSON. Fields that have other types than the API server allows are not tried."""
    body = _object(data)
    if not _POD.is_valid(body):
        return False
    read = read_pod(body)
    if read.report is not None:
        _check_report(read.report)
    at_most(len(read.log), 2_048)
    for moment in (read.created, read.advanced, read.gone_by):
        assert moment is None or moment.utcoffset() is not None, "times can be compared"
    assert not read.over or read.phase in ("Succeeded", "Failed")
    return True


def termination_message(data: bytes) -> bool:
    """What a container left, which a compromised agent wrote."""
    report = Outcome.from_termination_message(data.decode("utf-8", "replace"))
    if report is None:
        return False
    _check_report(report)
    return True


def _check_report(report: Outcome) -> None:
    at_most(len(report.message), 1_024)
    job = Job("demo-1", "u", None, None, 1, NOW, {})
    first = with_report(started_attempt(job, 1), report)
    second = with_report(started_attempt(job, 2), report)
    result = result_of(None, [report, report], [first, second])
    status = Status(attempts=(first, second), result=result, environment=report.environment).to_wire()
    at_most(len(written(status)), _STATUS_BYTES)
    assert refusals({"spec": {"source": issue().model_dump(mode="json")}, "status": status}) == []
    assert stored({}, json.loads(written(status))).intact
    shown = report.change_url and _LINKS.change_problem(report.change_url, issue()) is None
    branch = report.branch and _LINKS.branch_problem(report.branch, issue()) is None
    state = State(
        uuid="u",
        phase=Phase.FAILED,
        branch=report.branch if branch else None,
        change_url=report.change_url if shown else None,
    )
    text = comment(
        Report(
            "demo",
            issue(),
            _LABELS,
            state,
            3,
            NOW,
            reason=report.reason,
            message=report.message,
            summary=report.summary,
            tail=report.tail,
            pushed=True,
            last=first,
            usage=(result and result.usage) or report.usage,
        )
    )
    at_most(len(text), _COMMENT)
    assert read_state(text) == state, "no text of the agent is taken for our state"


def attempt_input(data: bytes) -> bool:
    """The input of an attempt, which is also a message of the queue."""
    text = data.decode("utf-8", "replace")
    try:
        read = AttemptInput.from_json(text, now=NOW)
    except ValueError as error:
        at_most(len(str(error)), 3 * len(data) + 1_000)
        return False
    item = read.task.request.item
    if item.platform is Platform.GITHUB and not re.fullmatch(r"[^/]+/.+", item.repository):
        return False  # a person wrote it so, and no message has a key of such an item
    again = AttemptInput.from_json(read.to_json(), now=NOW)
    assert again == read
    return True


def environment_file(data: bytes) -> bool:
    """A repository's `.coding-agent.yaml`."""
    try:
        read = read_file(data)
    except EnvironmentFileError as error:
        at_most(len(str(error)), 1_000)
        return False
    assert len(data) <= MAX_FILE_BYTES
    status = Status(environment=read.pod).to_wire()
    assert refusals({"spec": {"source": issue().model_dump(mode="json")}, "status": status}) == []
    kept = stored({}, json.loads(written(status)))
    assert kept.intact
    assert (kept.status.environment or type(read.pod)()) == read.pod
    return True


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
