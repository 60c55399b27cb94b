"""`doctor --crd` names the tasks that the CustomResourceDefinition of an older release would harm."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.chart.release import CRD
from tests.fixtures.crd import older
from tests.integration.core_kubernetes.place import Place
from tests.integration.operator.world import World
from tests.integration.plugin.conftest import Plugin, Said

COPY = "checkedagenttasks.schema-check.coding-agent.dev"
PRIORITIES = {"rule": "self.priority < 10", "message": "priorities end at 9"}
ENDED = {
    "type": "Succeeded",
    "status": "True",
    "reason": "Completed",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def world(place: Place) -> World:
    return World(place.plane, place.namespace)


def written(place: Place, crd: dict[str, Any]) -> str:
    """A file with the CRD among other objects, as `helm get manifest` prints it."""
    file = place.folder / "manifest.yaml"
    file.write_text(yaml.safe_dump_all([{"apiVersion": "v1", "kind": "Secret"}, None, crd]))
    return str(file)


def definitions(place: Place) -> list[str]:
    api: Any = client.ApiextensionsV1Api(place.plane.api_client)
    return [one.metadata.name for one in api.list_custom_resource_definition(_request_timeout=20).items]


def about(name: str, said: Said, world: World) -> str:
    """The line of a task, among those of other tests' tasks in the cluster; empty if there is none."""
    task = f"{world.namespace}/{name} "
    return "".join(line for line in said.out.splitlines() if task in line)


def test_tasks_that_an_older_schema_harms_are_named_and_nothing_changes(
    world: World, place: Place, plugin: Plugin
) -> None:
    crd = older()
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["spec"]["x-kubernetes-validations"].append(PRIORITIES)
    properties["status"]["properties"]["phase"]["enum"].remove("Backoff")
    sentences = {
        world.create(
            2, runner="opencode"
        ): 'does not fit this schema (spec.runner: Unsupported value: "opencode"',
        world.create(
            3, title="Round the price"
        ): "would go on without spec.title, which this schema does not",
        world.create(4, priority=11): "does not fit this schema (spec: Invalid value: priorities end at 9)",
    }
    another_phase, harmless = world.create(5), world.create(1)
    world.patch_status(another_phase, {"phase": "Backoff"})
    sentences[another_phase] = 'does not fit this schema (status.phase: Unsupported value: "Backoff"'
    world.patch_status(harmless, {"queuePosition": 3})
    before = world.tasks()
    said = plugin("doctor", "--crd", written(place, crd), status=1)
    assert about(harmless, said, world) == ""
    for name, sentence in sentences.items():
        assert about(name, said, world).startswith(
            f"wrong    task         {world.namespace}/{name} {sentence}"
        )
    assert "would lose status.queuePosition, and work as they do now" in said.out
    assert world.tasks() == before
    assert COPY not in definitions(place)

    for name in sentences:
        world.patch_status(name, {"conditions": [ENDED]})
    said = plugin("doctor", "--crd", written(place, crd), status=1)
    told = [name for name in sentences if about(name, said, world)]
    assert len(told) == 3, "an ended task needs no title any more"
    assert all(about(name, said, world).endswith("): delete it") for name in told)


@pytest.fixture
def killed_check(place: Place) -> Iterator[None]:
    """The copy that a killed check has left."""
    copy = older()
    group = COPY.partition(".")[2]
    copy["metadata"]["name"] = COPY
    copy["spec"] |= {"group": group, "names": {"plural": "checkedagenttasks", "kind": "AgentTask"}}
    place.plane.apply(copy)
    yield
    place.plane.kubectl("delete", "crd", COPY)


def test_the_sentence_says_why_a_schema_cannot_be_checked(
    place: Place, plugin: Plugin, killed_check: None
) -> None:
    file = place.folder / "other.yaml"
    for text, sentence in (
        ("kind: Secret\n", f"contains the CustomResourceDefinition {CRD} 0 times"),
        ("a: [\n", "cannot be read"),
    ):
        file.write_text(text)
        assert sentence in plugin("doctor", "--crd", str(file), status=2).err
    assert "cannot be read" in plugin("doctor", "--crd", str(place.folder / "none"), status=2).err
    assert f"kubectl delete crd {COPY}" in plugin("doctor", "--crd", written(place, older()), status=1).err
    crd = older()
    crd["spec"]["versions"][0]["name"] = "v2"
    assert "it serves v2 instead of v1alpha1" in plugin("doctor", "--crd", written(place, crd), status=1).out
