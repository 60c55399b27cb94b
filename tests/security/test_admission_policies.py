"""Wall: admission policies. An account may set only the fields, labels and annotations that its program sets.

The decoy: the same account creates the task that its program creates, and writes what its program writes.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.task import agenttask, commands
from coding_agent_core.task.agenttask import ANNOTATION_CREATED_BY, ANNOTATION_RESCAN, LABEL_REPORTED, RESCAN
from coding_agent_testbed.cluster.access import Access, KubectlError
from coding_agent_testbed.until import until
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.chart.helm import CHART, render_text
from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.operator.world import World, task_body

ROOT = Path(__file__).parents[2]
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
        values={"polling": {"enabled": True}, "config": {"github": {"owner": "acme"}}},
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


@pytest.fixture(params=["receiver", "poller"])
def receiver(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Access:
    """The account of the receiver or the poller, which has the same rights, once its policy is in force."""
    role = tmp_path / "role.yaml"
    role.write_text(
        (ROOT / ROLE).read_text().replace("coding-agent-receiver", f"coding-agent-{request.param}")
    )
    file = accounts.account(world.plane, str(role), world.namespace, tmp_path)
    access = Access(file, world.plane.plane.binaries["kubectl"])
    admin = Access(world.plane.kubeconfig, world.plane.plane.binaries["kubectl"])

    def in_force() -> bool:
        by_hand, stranger = task_body(99), task_body(98)
        del by_hand["spec"]["trigger"]
        FORBIDDEN["another author"][0](stranger)
        first = "label applications only" in said_to(access, by_hand, world.namespace)
        return first and "names who created" in said_to(admin, stranger, world.namespace)

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
        "coding-agent.dev",
    ),
}

OURS = {
    kind: frozenset(
        value
        for module in (agenttask, commands)
        for name, value in vars(module).items()
        if name.startswith(prefix)
    )
    for kind, prefix in (("labels", "LABEL_"), ("annotations", "ANNOTATION_"))
}
"""All labels and annotations, of objects of any kind."""
NEW = {"labels": frozenset(task_body(7)["metadata"]["labels"]), "annotations": frozenset[str]()}
"""What a new AgentTask of each program has."""
BY_THE_RECEIVER = {
    "labels": {commands.LABEL_COMMANDS},
    "annotations": {commands.ANNOTATION_COMMANDS, ANNOTATION_RESCAN},
}
BY_THE_REPORTER = {
    "labels": {commands.LABEL_COMMANDS, LABEL_REPORTED},
    "annotations": BY_THE_RECEIVER["annotations"]
    | {
        agenttask.ANNOTATION_ANSWERED,
        agenttask.ANNOTATION_CANCELLED,
        agenttask.ANNOTATION_CANCEL_CAUSE,
        agenttask.ANNOTATION_DUPLICATE_OF,
    },
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

    for fields in ({"priority": 9}, {"suspend": True}, {"cancel": True}):
        with pytest.raises(KubectlError, match="may change nothing"):
            patch("stored", spec=fields)
    with pytest.raises(KubectlError, match="may not set finalizers"):
        patch("stored", metadata={"finalizers": ["a.example/b"]})
    for which, author in (("stored", "root"), ("by an admin", None)):
        with pytest.raises(KubectlError, match=re.escape(ANNOTATION_CREATED_BY)):
            patch(which, metadata={"annotations": {ANNOTATION_CREATED_BY: author}})
    patch("stored", metadata={"annotations": {ANNOTATION_RESCAN: "{}"}})


def test_an_account_writes_the_labels_and_annotations_of_its_program_and_no_other(
    world: World, receiver: Access, reporter: Access
) -> None:
    name = world.create(7)
    refused = (
        "Of the (labels|annotations) of coding-agent.dev, the .* may change|names who created|to rescan only"
    )
    for access, allowed in ((receiver, BY_THE_RECEIVER), (reporter, BY_THE_REPORTER)):

        def patch(metadata: dict[str, Any], access: Access = access) -> str:
            how = ("--type=merge", "--dry-run=server", "-p", json.dumps({"metadata": metadata}))
            return access.kubectl("-n", world.namespace, "patch", "agenttask", name, *how)

        for kind, keys in OURS.items():
            for key in keys:
                if key in allowed[kind]:
                    patch({kind: {key: "x"}})
                    continue
                with pytest.raises(KubectlError, match=refused):
                    patch({kind: {key: "x"}})
            patch({kind: {"example.com/of-somebody-else": "x"}})
        with pytest.raises(KubectlError, match=refused):
            patch({"labels": {agenttask.LABEL_ITEM: None}})
        for kind, keys in OURS.items():
            for key in sorted(keys - NEW[kind] - {ANNOTATION_CREATED_BY}):
                body = task_body(8)
                body["metadata"].setdefault(kind, {})[key] = "x"
                said = said_to(access, body, world.namespace)
                if (access, key) == (reporter, agenttask.ANNOTATION_ANSWERED):
                    assert said == "", "the reporter has read the item"
                else:
                    assert re.search(refused, said), key

    def report(value: str) -> str:
        how = (
            "agenttask",
            name,
            "--type=merge",
            "-p",
            json.dumps({"metadata": {"labels": {LABEL_REPORTED: value}}}),
        )
        return receiver.kubectl("-n", world.namespace, "patch", *how)

    for value in ("true", RESCAN):
        with pytest.raises(KubectlError, match="may change the label reported to rescan only"):
            report(value)
    how = ("agenttask", name, f"{LABEL_REPORTED}=true")
    reporter.kubectl("-n", world.namespace, "label", *how)
    assert "patched" in report(RESCAN), "the decoy"


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


def test_the_reporter_writes_its_conditions_and_nothing_else_of_a_status(
    world: World, reporter: Access
) -> None:
    name = world.create(7)

    def condition(kind: str, **more: str) -> dict[str, str]:
        since = "2026-01-01T00:00:00Z"
        return {"type": kind, "status": "True", "reason": "Test", "lastTransitionTime": since, **more}

    def said(access: Access, **status: Any) -> str:
        """What the API server says against a change; empty if it does it. kubectl would read the status."""
        where = (agenttask.GROUP, agenttask.VERSION, world.namespace, agenttask.PLURAL, name)
        api: Any = client.CustomObjectsApi(access.api_client)
        try:
            api.patch_namespaced_custom_object_status(*where, {"status": status}, _request_timeout=60)
        except ApiException as error:
            return str(error.body)
        return ""

    refused = "the reporter may change the conditions LabelsShown and Reported only"

    until("the policy is in force", lambda: refused in said(reporter, reason="Test"), timeout=60)
    admin = Access(world.plane.kubeconfig, world.plane.plane.binaries["kubectl"])
    succeeded = condition("Succeeded", status="Unknown")
    assert said(admin, phase="Running", conditions=[succeeded], attempts=[]) == ""
    for status in (
        {"phase": "Succeeded"},
        {"result": {"branch": "main"}},
        {"environment": {"image": "registry.example.com/evil/image:1"}},
        {"attempts": None},
        {"conditions": [condition("Succeeded")]},
        {"conditions": [condition("Reported")]},  # without the operator's
    ):
        assert refused in said(reporter, **status), status
    for own in ([condition("Reported"), condition("LabelsShown")], [condition("Reported", status="False")]):
        assert said(reporter, conditions=[succeeded, *own]) == "", "the decoy"
