"""The Python types and the CRD cannot drift: every field, bound, enumeration and default is held together."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.task import agenttask
from coding_agent_core.task.agenttask import AgentTask, UnreadableTaskError, labels_for, manifest
from coding_agent_core.task.agenttask_patches import completion
from coding_agent_core.task.egress import MAX_DENIALS
from coding_agent_core.task.environment import MAX_VERIFY_COMMANDS, Environment
from coding_agent_core.task.model import (
    Item,
    Origin,
    RoundTrigger,
    TaskRequest,
    Trigger,
    item_of,
    parse_time,
)
from coding_agent_core.task.round_cause import IDS_LIMIT
from coding_agent_core.task.round_report import REPORTED_RERUNS, RoundReport
from coding_agent_core.task.usage import MAX_MODELS, Usage
from coding_agent_core.task.verification import Evidence, Side, SideEvidence, VerifiedCommand, VerifyReport
from coding_agent_operator.tasks.state import MAX_RECORDED
from pydantic import BaseModel

CRD = yaml.safe_load((Path(__file__).parents[3] / "crds" / "agenttask.yaml").read_text())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]
NOW = datetime(2026, 1, 2, tzinfo=UTC)

PAIRS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (agenttask.Spec, SCHEMA["spec"]),
    (agenttask.Source, SCHEMA["spec"]["properties"]["source"]),
    (Trigger, SCHEMA["spec"]["properties"]["trigger"]),
    (agenttask.Status, SCHEMA["status"]),
    (agenttask.Condition, SCHEMA["status"]["properties"]["conditions"]["items"]),
    (agenttask.AttemptStatus, SCHEMA["status"]["properties"]["attempts"]["items"]),
    (agenttask.TaskResult, SCHEMA["status"]["properties"]["result"]),
    (RoundTrigger, SCHEMA["spec"]["properties"]["trigger"]["properties"]["round"]),
    (RoundReport, SCHEMA["status"]["properties"]["result"]["properties"]["round"]),
    (VerifyReport, SCHEMA["status"]["properties"]["result"]["properties"]["verify"]),
    (Evidence, SCHEMA["status"]["properties"]["verify"]),
    *((SideEvidence, SCHEMA["status"]["properties"]["verify"]["properties"][side]) for side in Side),
    (
        VerifiedCommand,
        SCHEMA["status"]["properties"]["verify"]["properties"]["head"]["properties"]["commands"]["items"],
    ),
    (Usage, SCHEMA["status"]["properties"]["result"]["properties"]["usage"]),
    (Usage, SCHEMA["status"]["properties"]["attempts"]["items"]["properties"]["usage"]),
]
BOUNDS = ("minLength", "maxLength", "minimum", "maximum")


def resolve(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """A field's own schema, through `$ref` and `Optional`."""
    for branch in schema.get("anyOf", []):
        if branch.get("type") != "null":
            schema = {**schema, **branch}
    if "$ref" in schema:
        schema = {**whole["$defs"][schema["$ref"].rsplit("/", 1)[-1]], **schema}
    return schema


@pytest.mark.parametrize(("model", "crd"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS])
def test_types_and_schema_are_the_same(model: type[BaseModel], crd: dict[str, Any]) -> None:
    whole = model.model_json_schema(by_alias=True)
    assert set(whole["properties"]) == set(crd["properties"])
    # The source can be read from the URL; a rule of the CRD wants one of both.
    assert set(whole.get("required", [])) - {"source"} == set(crd.get("required", []))
    for name, raw in whole["properties"].items():
        ours, theirs = resolve(raw, whole), crd["properties"][name]
        assert ours["type"] == theirs["type"], f"{name}: type"
        if theirs["type"] == "integer":
            # Python's integers have no width.
            assert theirs.get("format") in ("int32", "int64"), f"{name}: format"
        else:
            assert ours.get("format") == theirs.get("format"), f"{name}: format"
        for bound in BOUNDS:
            assert ours.get(bound) == theirs.get(bound), f"{name}: {bound}"
        assert sorted(ours.get("enum", [])) == sorted(theirs.get("enum", [])), f"{name}: enum"
        if "default" in theirs:
            assert ours.get("default") == theirs["default"], f"{name}: default"


def test_what_is_written_fits_into_the_lists() -> None:
    lists = SCHEMA["status"]["properties"]
    assert lists["attempts"]["maxItems"] >= MAX_RECORDED
    assert lists["conditions"]["maxItems"] > 5
    assert lists["attempts"]["items"]["properties"]["denied"]["maxItems"] == MAX_DENIALS
    named = {path for path, node in NODES if node["type"] == "array"}
    models = {"status.attempts[].usage.models", "status.result.usage.models"}
    assert {node["maxItems"] for path, node in NODES if path in models} == {MAX_MODELS}
    environment = lists["environment"]["properties"]
    asked = Environment.model_json_schema()["properties"]
    for name in ("egress", "services"):
        assert environment[name]["maxItems"] == asked[name]["maxItems"]
    of_pods = {f"status.environment.{name}" for name in ("egress", "services", "services[].folders")}
    rounds = {f"status.result.round.{name}" for name in ("keys", "owed", "acts", "errors", "reruns")}
    rounds.add("spec.trigger.round.acts")
    assert {node["maxItems"] for path, node in NODES if path.endswith("round.acts")} == {IDS_LIMIT}
    of_round = lists["result"]["properties"]["round"]["properties"]
    assert [of_round[name]["maxItems"] for name in ("keys", "errors", "reruns")] == [
        IDS_LIMIT,
        IDS_LIMIT,
        REPORTED_RERUNS,
    ]
    verify = {f"status.verify.{side}.commands" for side in Side}
    assert {node["maxItems"] for path, node in NODES if path in verify} == {MAX_VERIFY_COMMANDS}
    expected = {
        "status.attempts",
        "status.attempts[].denied",
        "status.conditions",
        *models,
        *of_pods,
        *rounds,
        *verify,
    }
    assert named == expected, "each list has a line here"


def every(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, below in schema.get("properties", {}).items():
        found += every(below, f"{path}.{name}")
    if "items" in schema:
        found += every(schema["items"], f"{path}[]")
    return found


NODES = [(path, node) for root in ("spec", "status") for path, node in every(SCHEMA[root], root)]


@pytest.mark.parametrize(("path", "node"), NODES, ids=[path for path, _ in NODES])
def test_every_field_is_described_and_bounded(path: str, node: dict[str, Any]) -> None:
    if not path.endswith("[]"):
        assert node.get("description", "").endswith("."), f"{path}: `kubectl explain` has nothing to say"
    if node["type"] == "string" and "enum" not in node and node.get("format") != "date-time":
        assert "maxLength" in node, f"{path}: unbounded"
    if node["type"] == "array":
        assert "maxItems" in node, f"{path}: unbounded"


def test_only_three_fields_of_the_spec_can_change() -> None:
    rules = " ".join(rule["rule"] for rule in SCHEMA["spec"]["x-kubernetes-validations"])
    immutable = {name for name in SCHEMA["spec"]["properties"] if f"self.{name} == oldSelf.{name}" in rules}
    assert set(SCHEMA["spec"]["properties"]) - immutable == {"cancel", "suspend", "priority"}


KEYS: dict[str, dict[str, Any]] = {
    "github_issue": {"type": "github_issue", "owner": "o", "repo": "r", "number": 7},
    "github_pull_request": {"type": "github_pull_request", "owner": "o", "repo": "r", "number": 7},
    "gitlab_issue": {"type": "gitlab_issue", "project_id": 3, "issue_iid": 7},
    "gitlab_merge_request": {"type": "gitlab_merge_request", "project_id": 3, "mr_iid": 7},
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_request_becomes_a_task_and_is_read_back(key: dict[str, Any]) -> None:
    item = Item.from_key(key, host="forge.example", repository="o/r")
    request = TaskRequest(
        item=item,
        user="alice",
        trigger=Trigger(origin=Origin.WEBHOOK, delivery_id="d", labeled_at=NOW, received_at=NOW),
    )
    body = agenttask.manifest(request, run=2, timeout_seconds=60, max_attempts=2)
    assert body["spec"]["trigger"]["deliveryID"] == "d"
    assert agenttask.AgentTask.of(body).spec.item == item
    assert all(len(value) <= 63 for value in body["metadata"]["labels"].values())
    assert body["metadata"]["name"].endswith("-r2")


CREATED = "2026-11-25T12:00:00Z"
DEFAULTS = {"run": 2, "timeout_seconds": 60, "max_attempts": 4}


def written(**spec: Any) -> AgentTask:
    return AgentTask.of({"metadata": {"name": "fix-7", "creationTimestamp": CREATED}, "spec": spec})


def test_the_web_address_is_enough() -> None:
    url = "https://github.com/octo/demo/issues/7"
    patch = completion(written(url=url), **DEFAULTS)
    assert patch == {
        "metadata": {"labels": labels_for(item_of(url))},
        "spec": {
            "source": {
                "platform": "github",
                "host": "github.com",
                "repository": "octo/demo",
                "kind": "issue",
                "number": 7,
            },
            "trigger": {"origin": "manual", "receivedAt": CREATED},
            "run": 2,
            "timeoutSeconds": 60,
            "maxAttempts": 4,
        },
    }
    complete = written(**{"url": url, **patch["spec"]})
    assert complete.spec.item == item_of(url)
    assert complete.spec.trigger.cause is None, "who may write it needs no right on the forge"


def test_what_is_written_stays() -> None:
    task = written(url="https://gitlab.com/g/p/-/merge_requests/3", maxAttempts=1, run=9, model="m")
    patch = completion(task, **DEFAULTS)
    assert patch is not None
    assert set(patch["spec"]) == {"source", "trigger", "timeoutSeconds"}


def test_a_task_of_the_receiver_is_complete() -> None:
    received = parse_time(CREATED)
    assert received is not None
    item = item_of("https://github.com/octo/demo/issues/7")
    request = TaskRequest(item=item, trigger=Trigger(origin=Origin.WEBHOOK, received_at=received))
    body = manifest(request, run=1, timeout_seconds=60, max_attempts=3)
    body["metadata"]["creationTimestamp"] = CREATED
    assert completion(AgentTask.of(body), **DEFAULTS) is None


@pytest.mark.parametrize("url", ["", "octo/demo#7", "https://github.com/octo/demo"])
def test_without_an_item_nothing_can_be_filled_in(url: str) -> None:
    with pytest.raises(UnreadableTaskError, match=r"source|url"):
        completion(written(url=url), **DEFAULTS)
