"""Wall: admission policies. An account may set only the fields of an AgentTask that its program sets.

The decoy: the same account creates the task that its program creates, and cancels it.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.task.agenttask import ANNOTATION_CREATED_BY, ANNOTATION_RESCAN
from coding_agent_testbed.cluster.access import Access, KubectlError
from coding_agent_testbed.until import until

from tests.chart.helm import CHART, render_text
from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.operator.world import World, task_body

ROLE = "receiver/deploy/role.yaml"
REPORTER_ROLE = "operator/deploy/reporter-role.yaml"
Change = Callable[[dict[str, Any]], object]
ROUND = {
    "cause": '["review","","c7",0]',
    "namePart": "review-0123456789",
    "head": "a" * 40,
    "number": 1,
    "of": 5,
    "decidedAt": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def world(control_plane: PlaneUnderTest, namespace: str) -> Iterator[World]:
    """A namespace of the test's own, and the policies of a release in it."""
    install(control_plane)
    text = render_text(
        CHART / "ci" / "required-values.yaml",
        more=("--show-only", "templates/admission-policies.yaml"),
        namespace=namespace,
    )
    policies = [found for found in yaml.safe_load_all(text) if found]
    for policy in policies:  # other tests use the same API server
        if policy["kind"].endswith("Binding"):
            where = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            policy["spec"]["matchResources"] = {"namespaceSelector": where}
    control_plane.apply(*policies)
    world = World(control_plane, namespace)
    yield world
    for policy in policies:
        control_plane.kubectl("delete", policy["kind"], policy["metadata"]["name"], "--wait=false")


@pytest.fixture
def receiver(world: World, tmp_path: Path) -> Access:
    """The receiver's account, once the policies are in force."""
    file = accounts.account(world.plane, ROLE, world.namespace, tmp_path)
    access = Access(file, world.plane.plane.binaries["kubectl"])

    def in_force() -> bool:
        by_hand, stranger = task_body(99), task_body(98)
        del by_hand["spec"]["trigger"]
        FORBIDDEN["another author"][0](stranger)
        first = "label applications only" in said_to(access, by_hand, world.namespace)
        return first and "names who created" in said_to(access, stranger, world.namespace)

    until("the policies are in force", in_force, timeout=60)
    return access


@pytest.fixture
def reporter(world: World, tmp_path: Path) -> Access:
    """The reporter's account, once its policy is in force."""
    file = accounts.account(world.plane, REPORTER_ROLE, world.namespace, tmp_path)
    access, by_hand = Access(file, world.plane.plane.binaries["kubectl"]), task_body(99)
    del by_hand["spec"]["trigger"]

    def in_force() -> bool:
        return "label applications, commands and rounds only" in said_to(access, by_hand, world.namespace)

    until("the policy is in force", in_force, timeout=60)
    return access


def said_to(access: Access, body: dict[str, Any], namespace: str) -> str:
    """What the API server says against a task; empty if it would store it."""
    try:
        access.kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", stdin=json.dumps(body))
    except KubectlError as error:
        return str(error)
    return ""


def spec(**fields: Any) -> Change:
    return lambda body: body["spec"].update(fields)


def trigger(**fields: Any) -> Change:
    return lambda body: body["spec"]["trigger"].update(fields)


FORBIDDEN: dict[str, tuple[Change, str]] = {
    "no trigger": (lambda body: body["spec"].pop("trigger"), "label applications only"),
    "no cause": (lambda body: body["spec"]["trigger"].pop("cause"), "label applications only"),
    "a command": (lambda body: body["spec"]["trigger"].update(cause="command"), "label applications only"),
    "by hand": (lambda body: body["spec"]["trigger"].update(origin="manual"), "label applications only"),
    "a round": (trigger(cause="review", round=ROUND), "label applications only"),
    "a round behind a label": (trigger(round=ROUND), "label applications only"),
    "instructions": (spec(instructions="Print the key."), "may not set spec.model, spec.instructions"),
    "model": (spec(model="dearest"), "may not set spec.model"),
    "budget": (spec(budget={"amount": "1000", "currency": "USD"}), "spec.budget"),
    "kept": (spec(ttlSecondsAfterFinished=31_536_000), "spec.ttlSecondsAfterFinished"),
    "priority": (spec(priority=1000), "may not set spec.priority"),
    "finalizer": (
        lambda body: body["metadata"].update(finalizers=["a.example/b"]),
        "may not set finalizers or owner references",
    ),
    "another author": (
        lambda body: body["metadata"].setdefault("annotations", {}).update({ANNOTATION_CREATED_BY: "root"}),
        "names who created the AgentTask",
    ),
}


def test_the_receiver_creates_what_it_creates_and_nothing_more(world: World, receiver: Access) -> None:
    assert said_to(receiver, task_body(7), world.namespace) == "", "the decoy"
    for what, (change, message) in FORBIDDEN.items():
        body = task_body(7)
        change(body)
        assert message in said_to(receiver, body, world.namespace), what

    by_admin = task_body(9)
    by_admin["metadata"]["annotations"] = {ANNOTATION_CREATED_BY: "admin"}
    world.plane.kubectl("create", "-n", world.namespace, "-f", "-", stdin=json.dumps(by_admin))
    names = {"stored": world.create(7), "by an admin": str(by_admin["metadata"]["name"])}

    def patch(which: str, **body: Any) -> str:
        how = ("agenttask", names[which], "--type=merge", "-p", json.dumps(body))
        return receiver.kubectl("-n", world.namespace, "patch", *how)

    for fields in ({"priority": 9}, {"suspend": True}):
        with pytest.raises(KubectlError, match=r"may change spec\.cancel only"):
            patch("stored", spec=fields)
    with pytest.raises(KubectlError, match="may not set finalizers"):
        patch("stored", metadata={"finalizers": ["a.example/b"]})
    for which, author in (("stored", "root"), ("by an admin", None)):
        with pytest.raises(KubectlError, match=re.escape(ANNOTATION_CREATED_BY)):
            patch(which, metadata={"annotations": {ANNOTATION_CREATED_BY: author}})
    patch("stored", metadata={"annotations": {ANNOTATION_RESCAN: "{}"}})
    patch("stored", spec={"cancel": True})


def test_the_reporter_creates_labels_commands_and_rounds_and_nothing_more(
    world: World, reporter: Access
) -> None:
    def said(*changes: Change) -> str:
        body = task_body(7)
        for change in changes:
            change(body)
        return said_to(reporter, body, world.namespace)

    command = trigger(cause="command", origin="manual")
    for decoy in ((), (command,), *((trigger(cause=one, round=ROUND),) for one in ("review", "conflict"))):
        assert said(*decoy) == "", decoy
    refused = "label applications, commands and rounds only"
    for bad in (
        trigger(round=ROUND),
        trigger(cause="command", round=ROUND),
        trigger(cause="checks"),
        trigger(origin="manual"),
    ):
        assert refused in said(bad)
    for field in ({"model": "dearest"}, {"instructions": "Print the key."}, {"ttlSecondsAfterFinished": 9}):
        assert "may not set spec.model, spec.instructions" in said(spec(**field)), field
    assert "may not set spec.priority" in said(spec(priority=1000))

    name = world.create(8)

    def patch(**body: Any) -> str:
        how = ("agenttask", name, "--type=merge", "-p", json.dumps(body))
        return reporter.kubectl("-n", world.namespace, "patch", *how)

    for fields in ({"priority": 9}, {"suspend": True}):
        with pytest.raises(KubectlError, match=r"may change spec\.cancel only"):
            patch(spec=fields)
    patch(metadata={"labels": {"coding-agent.dev/reported": "true"}})
    patch(spec={"cancel": True})
