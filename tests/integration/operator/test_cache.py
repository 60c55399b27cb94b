"""The claims of caches on a real API server: made once, kept, and made only with the right to do so."""

from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client

from tests.fixtures.accounts import until_may
from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.pod_driver import DONE, PodDriver
from tests.integration.operator.world import ACCOUNT, OperatorProcess, World

Start = Callable[..., OperatorProcess]
CLASS = "coding-agent-test"
"""A StorageClass whose volumes somebody would make by hand."""
RIGHTS = {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "create"]}
"""As the chart gives them."""


def enabled(storage_class: str = CLASS) -> dict[str, Any]:
    return {"job": {"cache": {"enabled": True, "size": "1Gi", "storage_class": storage_class}}}


@pytest.fixture(autouse=True)
def storage_class(plane: PlaneUnderTest) -> None:
    storage: Any = client.StorageV1Api(plane.api_client)
    if CLASS not in [one.metadata.name for one in storage.list_storage_class(_request_timeout=60).items]:
        body = {
            "metadata": {"name": CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        storage.create_storage_class(body, _request_timeout=60)


def allow(world: World) -> None:
    rights: Any = client.RbacAuthorizationV1Api(world.plane.api_client)
    name, group = "caches", "rbac.authorization.k8s.io"
    rights.create_namespaced_role(
        world.namespace, {"metadata": {"name": name}, "rules": [RIGHTS]}, _request_timeout=60
    )
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": world.namespace}],
    }
    rights.create_namespaced_role_binding(world.namespace, binding, _request_timeout=60)
    until_may(
        world.plane,
        ACCOUNT,
        world.namespace,
        {"group": "", "resource": "persistentvolumeclaims", "verb": "create"},
    )


def claims(world: World) -> dict[str, Any]:
    found = world.plane.core.list_namespaced_persistent_volume_claim(
        world.namespace, label_selector="app.kubernetes.io/component=cache", _request_timeout=60
    )
    return {claim.metadata.name: claim for claim in found.items}


def claims_of(world: World, task: str) -> list[str]:
    volumes = [
        volume
        for name, job in world.jobs().items()
        if name.startswith(f"{task}-")
        for volume in job.spec.template.spec.volumes
    ]
    return [one.persistent_volume_claim.claim_name for one in volumes if one.persistent_volume_claim]


def test_a_claim_is_made_once_and_not_waited_for_where_its_class_does_not_exist(
    world: World, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: DONE
    operator(operator=enabled("missing"))
    allow(world)
    for number in (1, 2):  # the first makes the claim, and the second finds it
        name = world.create(number, trusted=True)
        world.until_phase(name, "Succeeded")
        assert "CacheUnavailable" in world.events(name)
        assert claims_of(world, name) == []
    [claim] = claims(world).values()
    assert claim.spec.resources.requests == {"storage": "1Gi"}
    assert claim.metadata.owner_references is None, "it outlives its tasks"
    assert claim.metadata.annotations["coding-agent.dev/repository-path"] == "github.com/octo/demo"


def test_the_attempts_of_a_repository_mount_its_claim(world: World, pods: PodDriver, operator: Start) -> None:
    pods.script = lambda _: DONE
    operator(operator=enabled())
    allow(world)
    first, second = world.create(1, trusted=True), world.create(2)
    for task in (first, second):
        world.until_phase(task, "Succeeded")
    assert claims_of(world, first) == claims_of(world, second) == [*claims(world)]
