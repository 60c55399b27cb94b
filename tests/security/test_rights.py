"""Wall: Kubernetes rights. Each program's account may do what its role gives, and nothing else.

The decoy: the rights that an account has are found by the same question as those that it must not have.
"""

from pathlib import Path

import pytest
from coding_agent_testbed.cluster.access import Access, KubectlError

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.rights import rights
from tests.integration.operator.world import World

TASKS = "agenttasks.coding-agent.dev"
LEASES = "leases.coordination.k8s.io"
MAY = {
    "receiver/deploy/role.yaml": {TASKS: {"create", "get", "list", "patch"}},
    "operator/deploy/role.yaml": {
        TASKS: {"get", "list", "watch", "patch", "delete"},
        f"{TASKS}/status": {"patch"},
        "jobs.batch": {"get", "list", "watch", "create", "patch", "delete"},
        "pods": {"list", "watch"},
        "events": {"create", "list"},
        LEASES: {"create"},
        f"{LEASES}=coding-agent-operator": {"get", "patch"},
        "workloads.kueue.x-k8s.io": {"list"},
    },
    "operator/deploy/reporter-role.yaml": {
        TASKS: {"get", "list", "watch", "create", "patch"},
        f"{TASKS}/status": {"patch"},
        "events": {"create"},
        LEASES: {"create"},
        f"{LEASES}=coding-agent-reporter": {"get", "patch"},
    },
}
"""The verbs by role and resource."""


@pytest.mark.parametrize("role", MAY)
def test_what_it_may_and_nothing_else(
    control_plane: PlaneUnderTest, namespace: str, tmp_path: Path, role: str
) -> None:
    install(control_plane)
    kubeconfig = accounts.account(control_plane, role, namespace, tmp_path)
    access = Access(kubeconfig, control_plane.plane.binaries["kubectl"])
    assert rights(access, namespace) == MAY[role]
    assert rights(access, "default") == {}, "nothing in another namespace nor in all"
    task = World(control_plane, namespace).create(7)
    assert task in access.kubectl("-n", namespace, "get", "agenttasks"), "the decoy: it has its role"
    with pytest.raises(KubectlError, match=r'cannot list resource "secrets'):
        access.kubectl("-n", namespace, "get", "secrets", timeout=60)
