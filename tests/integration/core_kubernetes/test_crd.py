"""What the API server refuses by the rules of `crds/agenttask.yaml`, each with its message."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import yaml
from coding_agent_core.task import agenttask
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger
from kubernetes.client.exceptions import ApiException

from tests.fixtures.system import ROOT
from tests.integration.core_kubernetes.place import Place

CRD = yaml.safe_load((ROOT / "crds" / "agenttask.yaml").read_text())
SPEC = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEYS: list[dict[str, Any]] = [
    {"type": "github_issue", "owner": "o", "repo": "r", "number": 7},
    {"type": "github_pull_request", "owner": "o", "repo": "r", "number": 7},
    {"type": "gitlab_issue", "project_id": 3, "issue_iid": 7},
    {"type": "gitlab_merge_request", "project_id": 3, "mr_iid": 7},
]
IMMUTABLE = "spec is immutable except for cancel, suspend and priority; create another task instead"
CANCELLED = "a cancelled task cannot be resumed; start a new run with `kubectl agenttask retry`"
NO_ITEM = "set spec.source, or set spec.url to the web address of the item"
UNIT = "give either amount and currency, or tokens"
CHANGEABLE = {"cancel", "suspend", "priority"}
OPTIONAL = ("model", "instructions", "runner", "budget", "ttlSecondsAfterFinished")

Fields = dict[str, Any]


def task(key: Fields) -> Fields:
    """An AgentTask with every field set."""
    trigger = Trigger(origin=Origin.WEBHOOK, delivery_id="d", labeled_at=NOW, received_at=NOW)
    item = Item.from_key(key, host="forge.example", repository="o/r")
    request = TaskRequest(
        item=item, user="alice", title="It", url="https://forge.example", trusted=True, trigger=trigger
    )
    body = agenttask.manifest(
        request, run=2, timeout_seconds=60, max_attempts=2, model="m", instructions="Be quick."
    )
    more = {"ttlSecondsAfterFinished": 60, "runner": "codex", "budget": {"amount": "5.00", "currency": "USD"}}
    return {**body, "spec": body["spec"] | more}


def changed(body: Fields, **fields: Any) -> Fields:
    """The body with these fields of its spec; without those that are `None`."""
    spec = {name: value for name, value in (body["spec"] | fields).items() if value is not None}
    return {**body, "spec": spec}


class Tasks:
    """Writes to a namespace, and what the API server says of them: nothing if it takes them."""

    def __init__(self, place: Place) -> None:
        self._api = place.plane.custom
        self._where = (agenttask.GROUP, agenttask.VERSION, place.namespace, agenttask.PLURAL)

    def create(self, body: Fields, dry_run: str | None = "All") -> str:
        options = {"dry_run": dry_run} if dry_run else {}
        return self._said(self._api.create_namespaced_custom_object, body, **options)

    def replace(self, body: Fields, dry_run: str | None = "All") -> str:
        name = body["metadata"]["name"]
        stored = self._api.get_namespaced_custom_object(*self._where, name)
        version = {**body["metadata"], "resourceVersion": stored["metadata"]["resourceVersion"]}
        options = {"dry_run": dry_run} if dry_run else {}
        write = self._api.replace_namespaced_custom_object
        return self._said(write, name, {**body, "metadata": version}, **options)

    def _said(self, write: Callable[..., Any], *arguments: Any, **options: Any) -> str:
        try:
            write(*self._where, *arguments, _request_timeout=20, **options)
        except ApiException as error:
            if error.status != 422:
                raise
            return str(yaml.safe_load(error.body or "")["message"])
        return ""


def test_each_form_of_a_task_is_taken_and_what_does_not_fit_together_is_not(place: Place) -> None:
    tasks = Tasks(place)
    assert [tasks.create(task(key)) for key in KEYS] == [""] * 4
    body = task(KEYS[0])
    for message, fields in (
        (NO_ITEM, {"source": None, "url": None}),
        (NO_ITEM, {"source": None, "url": ""}),
        (UNIT, {"budget": {}}),
        (UNIT, {"budget": {"amount": "5.00"}}),
        (UNIT, {"budget": {"amount": "5.00", "currency": "USD", "tokens": 5}}),
        ("spec.url", {"url": "javascript:alert(1)"}),
        ("spec.url", {"url": "https://x/1 onclick=y"}),
    ):
        assert message in tasks.create(changed(body, **fields)), fields


def another(value: Any) -> Any:
    """Another value that the field could have been made with."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case {"amount": _}:
            return {"amount": "6.00", "currency": "USD"}
        case {"origin": _}:
            return value | {"origin": "poll"}
        case {"number": number}:
            return value | {"number": number + 1}
        case "codex":
            return "gemini"
        case _:
            return f"{value}x"


def test_every_field_but_three_stays_as_it_was_made(place: Place) -> None:
    tasks, body = Tasks(place), task(KEYS[2])
    assert tasks.create(body, dry_run=None) == ""
    fixed = set(SPEC) - CHANGEABLE
    assert fixed <= set(body["spec"]), "every other field is tried"
    changes = [(name, another(body["spec"][name])) for name in fixed] + [(name, None) for name in OPTIONAL]
    said = {f"{name}: {value}": tasks.replace(changed(body, **{name: value})) for name, value in changes}
    assert {change for change, answer in said.items() if IMMUTABLE not in answer} == set()


def test_three_fields_can_change_and_a_cancel_stays(place: Place) -> None:
    tasks, body = Tasks(place), task(KEYS[0])
    assert tasks.create(body, dry_run=None) == ""
    for fields in ({"priority": 5}, {"priority": 0}, {"suspend": True}, {"suspend": False}, {"cancel": True}):
        body = changed(body, **fields)
        assert tasks.replace(body, dry_run=None) == ""
    assert CANCELLED in tasks.replace(changed(body, cancel=False))
    assert CANCELLED in tasks.replace(changed(body, cancel=None)), "false is its default"
