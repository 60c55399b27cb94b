"""What the API server refuses by `crds/agenttask.yaml`: each rule with its message, each bound, each field.

What the bounds are is told by the schema itself, which a unit test holds against the Python types.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from coding_agent_core import agenttask
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger
from kubernetes.client.exceptions import ApiException

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.system import ROOT
from tests.integration.core_kubernetes.place import Place

CRD = yaml.safe_load((ROOT / "crds" / "agenttask.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEYS: dict[str, dict[str, Any]] = {
    "github_issue": {"type": "github_issue", "owner": "o", "repo": "r", "number": 7},
    "github_pull_request": {"type": "github_pull_request", "owner": "o", "repo": "r", "number": 7},
    "gitlab_issue": {"type": "gitlab_issue", "project_id": 3, "issue_iid": 7},
    "gitlab_merge_request": {"type": "gitlab_merge_request", "project_id": 3, "mr_iid": 7},
}
IMMUTABLE = "spec is immutable except for cancel, suspend and priority; create another task instead"
CANCELLED = "a cancelled task cannot be resumed; start a new run with `kubectl agenttask retry`"
NO_ITEM = "set spec.source, or set spec.url to the web address of the item"
UNIT = "give either amount and currency, or tokens"
ABSENT = object()
SAMPLES = {
    r"^(https?://\S+)?$": "https://" + "ä" * 2040,
    r"^\d{1,12}(\.\d{1,6})?$": "999999999999.999999",
    "^[A-Z]{3}$": "ZZZ",
    "^[A-Za-z0-9._-]+(:[0-9]{1,5})?$": f"{'a' * 254}:65535",
}
"""The longest texts of patterns."""
CHANGEABLE = {"cancel", "suspend", "priority"}

Fields = dict[str, Any]
Leaf = tuple[str, Any]
"""A field by its path, such as `spec.trigger.origin` or `status.attempts.0.job`, and its schema."""


def task(form: str) -> Fields:
    """An AgentTask of that form with every field set."""
    trigger = Trigger(origin=Origin.WEBHOOK, delivery_id="d", labeled_at=NOW, received_at=NOW)
    item = Item.from_key(KEYS[form], host="forge.example", repository="o/r")
    request = TaskRequest(
        item=item,
        user="alice",
        title="It",
        url="https://forge.example",
        trusted=True,
        trigger=trigger,
    )
    body = agenttask.manifest(
        request, run=2, timeout_seconds=60, max_attempts=2, model="m", instructions="Be quick."
    )
    body["spec"] |= {
        "ttlSecondsAfterFinished": 60,
        "runner": "codex",
        "budget": {"amount": "5.00", "currency": "USD"},
    }
    return body


def changed(body: Fields, path: str, value: Any) -> Fields:
    """The body with that field of another value, or without it."""
    body = copy.deepcopy(body)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = body
    for parent in parents:
        place = place[parent]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return body


def leaves(schema: Fields, path: str) -> Iterator[Leaf]:
    """All fields that hold no further ones."""
    for name, below in schema.get("properties", {}).items():
        yield from leaves(below, f"{path}.{name}")
    if "items" in schema:
        yield from leaves(schema["items"], f"{path}.0")
    if "additionalProperties" in schema:
        yield from leaves(schema["additionalProperties"], f"{path}.NAME")
    if not schema.keys() & {"properties", "items", "additionalProperties"}:
        yield path, schema


def sample(schema: Fields) -> Any:
    """A value as large as may be, with all that can be in it."""
    kind = schema["type"]
    if "additionalProperties" in schema:
        return {"NAME": sample(schema["additionalProperties"])}
    if kind == "object":
        return {name: sample(property_) for name, property_ in schema["properties"].items()}
    if kind == "array":
        # By its key there can be no more conditions than types.
        keyed = "x-kubernetes-list-map-keys" in schema
        return [sample(schema["items"])] * (1 if keyed else schema["maxItems"])
    if kind == "boolean":
        return True
    if kind == "integer":
        return schema.get("maximum", 7)
    if "enum" in schema:
        return schema["enum"][-1]
    if schema.get("format") == "date-time":
        return NOW.isoformat()
    if "pattern" in schema:
        return SAMPLES[schema["pattern"]]
    # Characters are counted, not bytes.
    return "ä" * schema["maxLength"]


def has(body: Fields, path: str) -> bool:
    *parents, last = path.split(".")
    for parent in parents:
        body = body[parent]
    return last in body


Try = Callable[[Fields], str]
"""What the API server says of an object, without keeping it; nothing if it would take it."""


def said(request: Callable[[], Any]) -> str:
    try:
        request()
    except ApiException as error:
        if error.status != 422:
            raise
        return str(yaml.safe_load(error.body or "")["message"])
    return ""


@pytest.fixture
def create(plane_with_agenttasks: PlaneUnderTest) -> Try:
    where = (agenttask.GROUP, agenttask.VERSION, "default", agenttask.PLURAL)
    api = plane_with_agenttasks.custom

    def make(body: Fields) -> str:
        return said(
            lambda: api.create_namespaced_custom_object(*where, body, dry_run="All", _request_timeout=20)
        )

    return make


class Kept:
    """A task in the API server, and what is said of changes to it."""

    def __init__(self, place: Place, body: Fields) -> None:
        self._api = place.plane.custom
        self._where = (agenttask.GROUP, agenttask.VERSION, place.namespace, agenttask.PLURAL)
        self.body = self._api.create_namespaced_custom_object(*self._where, body, _request_timeout=20)

    def replace(self, body: Fields, *, keep: bool = False) -> str:
        def request() -> None:
            self.body = self._api.replace_namespaced_custom_object(
                *self._where, body["metadata"]["name"], body, dry_run=None if keep else "All"
            )

        before = self.body
        answer = said(request)
        if not keep:
            self.body = before
        return answer

    def write_status(self, status: Any) -> str:
        body = {**self.body, "status": status}
        name = body["metadata"]["name"]
        return said(
            lambda: self._api.replace_namespaced_custom_object_status(*self._where, name, body, dry_run="All")
        )


RULES: list[tuple[str, Fields, str]] = [
    ("github_issue", {"spec.source": ABSENT, "spec.url": ABSENT}, NO_ITEM),
    ("github_issue", {"spec.source": ABSENT, "spec.url": ""}, NO_ITEM),
    ("github_issue", {"spec.budget": {}}, UNIT),
    ("github_issue", {"spec.budget.currency": ABSENT}, UNIT),
    ("github_issue", {"spec.budget.tokens": 5}, UNIT),
]


@pytest.mark.parametrize("form", KEYS)
def test_each_form_of_a_task_is_taken(create: Try, form: str) -> None:
    assert create(task(form)) == ""


@pytest.mark.parametrize(("form", "changes", "message"), RULES)
def test_what_does_not_fit_together_is_refused(create: Try, form: str, changes: Fields, message: str) -> None:
    body = task(form)
    for path, value in changes.items():
        body = changed(body, path, value)
    assert message in create(body)


def test_every_rule_is_tried() -> None:
    def messages(schema: Fields) -> set[str]:
        found = {rule["message"] for rule in schema.get("x-kubernetes-validations", [])}
        below = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
        return found.union(*map(messages, below))

    tried = {message for _, _, message in RULES} | {IMMUTABLE, CANCELLED}
    assert messages({"properties": SCHEMA}) == tried


_OPTIONAL = ("deliveryID", "labeledAt", "cause", "projectID", "model", "instructions", "runner")


def test_every_field_but_three_stays_as_it_was_made(place: Place) -> None:
    kept = Kept(place, task("gitlab_issue"))
    wrong: dict[str, str] = {}
    tried = set()
    for path, schema in leaves(SCHEMA["spec"], "spec"):
        top = path.split(".")[1]
        if top in CHANGEABLE or not has(kept.body, path):
            continue
        tried.add(top)
        optional = path.split(".")[-1] in _OPTIONAL
        for value in (another(kept.body, path, schema), *([ABSENT] if optional else [])):
            answer = kept.replace(changed(kept.body, path, value))
            if IMMUTABLE not in answer:
                wrong[f"{path}: {value!r}"] = answer
    assert wrong == {}
    assert tried == set(SCHEMA["spec"]["properties"]) - CHANGEABLE, "every other field was tried"


def another(body: Fields, path: str, schema: Fields) -> Any:
    """Another value that the field could have been made with."""
    for part in path.split("."):
        body = body[part]
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != body)
    if schema.get("format") == "date-time":
        return NOW.replace(year=2025).isoformat()
    if "pattern" in schema:
        return SAMPLES[schema["pattern"]]
    if isinstance(body, bool):
        return not body
    return body + 1 if isinstance(body, int) else f"{body}x"


def test_three_fields_can_change_and_a_cancel_stays(place: Place) -> None:
    kept = Kept(place, task("github_issue"))
    for path, value in (
        ("spec.priority", 5),
        ("spec.priority", 0),
        ("spec.suspend", True),
        ("spec.suspend", False),
        ("spec.cancel", True),
        ("spec.priority", 9),
    ):
        assert kept.replace(changed(kept.body, path, value), keep=True) == ""
    assert CANCELLED in kept.replace(changed(kept.body, "spec.cancel", False))
    assert CANCELLED in kept.replace(changed(kept.body, "spec.cancel", ABSENT)), "false is its default"


def test_every_field_of_the_spec_is_taken_at_its_upper_bound(create: Try) -> None:
    body = task("github_issue")
    for path, schema in leaves(SCHEMA["spec"], "spec"):
        if has(body, path) and "enum" not in schema:
            body = changed(body, path, sample(schema))
    assert create(body) == ""


def test_every_field_of_the_status_is_taken_at_its_upper_bound(place: Place) -> None:
    kept = Kept(place, task("github_issue"))
    assert kept.write_status(sample(SCHEMA["status"])) == ""
