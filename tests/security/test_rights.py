"""Wall: Kubernetes rights. Each program's account may do what its role gives, and nothing else.

The decoy: the rights that an account has are found by the same question as those that it must not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from coding_agent_cluster.access import Access, KubectlError

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.rights import allowed
from tests.integration.operator.world import World

TASKS = "agenttasks.coding-agent.dev"
LEASES = "leases.coordination.k8s.io"
IN_THE_NAMESPACE = [
    TASKS,
    f"{TASKS}/status",
    f"{TASKS}/finalizers",
    "jobs.batch",
    "jobs.batch/status",
    "cronjobs.batch",
    "pods",
    "pods/exec",
    "pods/log",
    "pods/status",
    "pods/eviction",
    "secrets",
    "configmaps",
    "services",
    "events",
    LEASES,
    "persistentvolumeclaims",
    "serviceaccounts",
    "serviceaccounts/token",
    "deployments.apps",
    "networkpolicies.networking.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "workloads.kueue.x-k8s.io",
]
OF_THE_CLUSTER = [
    "namespaces",
    "nodes",
    "customresourcedefinitions.apiextensions.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
]


@dataclass(frozen=True)
class Account:
    """
    Attributes:
        role: the file that gives it its rights.
        may: the verbs by resource.
        denied: kubectl commands, and what the API server says to them.
    """

    role: str
    may: dict[str, set[str]]
    denied: dict[str, str] = field(default_factory=dict)


ACCOUNTS = {
    "coding-agent-receiver": Account(
        "receiver/deploy/role.yaml",
        {TASKS: {"create", "get", "list", "patch"}},
        {
            "get secrets": 'list resource "secrets"',
            "get jobs": 'list resource "jobs"',
            "get pods": 'list resource "pods"',
            "delete agenttask any": 'delete resource "agenttasks"',
            "get agenttasks --watch": 'watch resource "agenttasks"',
            "get agenttasks --all-namespaces": 'list resource "agenttasks".* at the cluster scope',
            "create configmap c": 'create resource "configmaps"',
        },
    ),
    "coding-agent-operator": Account(
        "operator/deploy/role.yaml",
        {
            TASKS: {"get", "list", "watch", "patch", "delete"},
            f"{TASKS}/status": {"patch"},
            "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
            "pods": {"list", "watch"},
            "events": {"create", "list"},
            LEASES: {"create"},
            "workloads.kueue.x-k8s.io": {"list"},
        },
        {
            "get secrets": 'list resource "secrets"',
            "get configmaps": 'list resource "configmaps"',
            "get serviceaccounts": 'list resource "serviceaccounts"',
        },
    ),
    "coding-agent-reporter": Account(
        "operator/deploy/reporter-role.yaml",
        {
            TASKS: {"get", "list", "watch", "create", "patch"},
            f"{TASKS}/status": {"patch"},
            "events": {"create"},
        },
        {
            "get secrets": 'list resource "secrets"',
            "get jobs": 'list resource "jobs"',
        },
    ),
}


@pytest.fixture(params=ACCOUNTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(control_plane: PlaneUnderTest, namespace: str) -> World:
    """A namespace of the test's own, and the AgentTask resource."""
    install(control_plane)
    return World(control_plane, namespace)


@pytest.fixture
def access(world: World, name: str, tmp_path: Path) -> Access:
    """kubectl with the account."""
    kubeconfig = accounts.account(world.plane, ACCOUNTS[name].role, world.namespace, tmp_path)
    return Access(kubeconfig, world.plane.plane.binaries["kubectl"])


def test_what_it_may_and_nothing_else(world: World, name: str, access: Access) -> None:
    asked = [*IN_THE_NAMESPACE, *OF_THE_CLUSTER]
    found = {entry: allowed(access, entry, namespace=world.namespace) for entry in asked}
    assert {item: verbs for item, verbs in found.items() if verbs} == ACCOUNTS[name].may


def test_nothing_in_another_namespace_nor_in_all(name: str, access: Access) -> None:
    for namespace in ("default", ""):
        found = {entry: allowed(access, entry, namespace=namespace) for entry in ACCOUNTS[name].may}
        assert not any(found.values()), found


def test_a_denied_request_is_denied(world: World, name: str, access: Access) -> None:
    task = world.create(7)
    assert task in access.kubectl("-n", world.namespace, "get", "agenttasks"), "it has its role"
    for command, denied in ACCOUNTS[name].denied.items():
        where = [] if "--all-namespaces" in command else ["-n", world.namespace]
        with pytest.raises(KubectlError) as refused:
            access.kubectl(*where, *command.split(), timeout=60)
        assert re.search(f"{world.namespace}:{name}.* cannot {denied}", str(refused.value), re.DOTALL)


@pytest.mark.parametrize("name", ["coding-agent-operator"], indirect=True)
def test_the_operator_has_its_own_lease_alone(world: World, access: Access) -> None:
    own = allowed(access, LEASES, namespace=world.namespace, name="coding-agent-operator")
    other = allowed(access, LEASES, namespace=world.namespace, name="another")
    assert own == {"get", "patch", "create"}
    assert other == {"create"}
