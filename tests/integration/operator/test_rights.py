"""The operator's account may do what `deploy/role.yaml` gives, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from coding_agent_cluster.access import Access, KubectlError

from tests.fixtures.rights import allowed
from tests.integration.operator.world import World, account

MAY = {
    "agenttasks.coding-agent.dev": {"get", "list", "watch", "patch", "delete"},
    "agenttasks.coding-agent.dev/status": {"patch"},
    "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
    "pods": {"list", "watch"},
    "events": {"create"},
    "leases.coordination.k8s.io": {"create"},
    "workloads.kueue.x-k8s.io": {"list"},
}
NOTHING = [
    "agenttasks.coding-agent.dev/finalizers",
    "jobs.batch/status",
    "pods/exec",
    "pods/log",
    "pods/status",
    "pods/eviction",
    "secrets",
    "configmaps",
    "services",
    "persistentvolumeclaims",
    "serviceaccounts",
    "serviceaccounts/token",
    "deployments.apps",
    "cronjobs.batch",
    "networkpolicies.networking.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
]
OF_THE_CLUSTER = [
    "namespaces",
    "nodes",
    "customresourcedefinitions.apiextensions.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
]


@pytest.fixture
def operator(world: World, tmp_path: Path) -> Access:
    """kubectl with the operator's account."""
    return Access(account(world.plane, world.namespace, tmp_path), world.plane.plane.binaries["kubectl"])


def test_what_it_may_and_nothing_else(world: World, operator: Access) -> None:
    asked = [*MAY, *NOTHING, *OF_THE_CLUSTER]
    found = {entry: allowed(operator, entry, namespace=world.namespace) for entry in asked}
    assert {item: verbs for item, verbs in found.items() if verbs} == MAY


def test_its_own_lease_alone(world: World, operator: Access) -> None:
    lease = "leases.coordination.k8s.io"
    own = allowed(operator, lease, namespace=world.namespace, name="coding-agent-operator")
    other = allowed(operator, lease, namespace=world.namespace, name="another")
    assert own == {"get", "patch", "create"}
    assert other == {"create"}


def test_nothing_in_another_namespace_nor_in_all(operator: Access) -> None:
    for namespace in ("default", ""):
        assert {
            entry: verbs for entry in MAY if (verbs := allowed(operator, entry, namespace=namespace))
        } == {}


def test_a_denied_request_is_denied(world: World, operator: Access) -> None:
    name = world.create(7)
    assert name in operator.kubectl("-n", world.namespace, "get", "agt")
    for resource in ("secrets", "configmaps", "serviceaccounts"):
        with pytest.raises(
            KubectlError, match=f"{world.namespace}:coding-agent-operator.*cannot list.*{resource}"
        ):
            operator.kubectl("-n", world.namespace, "get", resource)
