"""Wall: Kubernetes rights. Each program's account may do what its role gives, and nothing else.

The decoy: the rights that an account has are found by the same question as those that it must not have.
"""

import json
from pathlib import Path

import pytest
import yaml
from coding_agent_testbed.cluster.access import Access, KubectlError

from tests.chart.helm import CHART, render
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


def test_attempts_and_the_token_service_reach_no_task(
    control_plane: PlaneUnderTest, namespace: str, tmp_path: Path
) -> None:
    """Whoever takes over an attempt has its account, if somebody mounts its token; the chart does not."""
    install(control_plane)
    task = World(control_plane, namespace).create(7)
    rendered = render(CHART / "ci" / "app-values.yaml", namespace=namespace)
    accounts_of_chart = {one["metadata"]["name"] for one in rendered if one["kind"] == "ServiceAccount"}
    may = {
        "coding-agent-tokens": {"tokenreviews.authentication.k8s.io": {"create"}},
        "coding-agent-attempt": {},
    }
    assert may.keys() <= accounts_of_chart
    given = [
        one
        for one in rendered
        if one["metadata"]["name"] in may
        or any(subject["name"] in may for subject in one.get("subjects", ()))
        or (one["kind"] == "ClusterRole" and one["metadata"]["name"].endswith("-tokens"))
    ]
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    control_plane.apply(*(one for one in given if one["kind"] in kinds))
    right = {"group": "authentication.k8s.io", "resource": "tokenreviews", "verb": "create"}
    accounts.until_may(control_plane, "coding-agent-tokens", namespace, right)
    for name, rights_of_it in may.items():
        file = tmp_path / f"{name}.kubeconfig"
        file.write_text(yaml.safe_dump(accounts.kubeconfig_of(control_plane, name, namespace)))
        access = Access(file, control_plane.plane.binaries["kubectl"])
        assert rights(access, namespace) == rights_of_it
        for how in (
            ("get", "agenttasks"),
            ("patch", "agenttask", task, "--type=merge", "-p", json.dumps({"spec": {"cancel": True}})),
            ("annotate", "agenttask", task, "coding-agent.dev/commands=[]"),
            ("label", "agenttask", task, "coding-agent.dev/reported=true"),
        ):
            with pytest.raises(KubectlError, match=r"cannot (get|list|patch) resource \"agenttasks"):
                access.kubectl("-n", namespace, *how, timeout=60)
    for one in given:
        if one["kind"].startswith("Cluster"):
            control_plane.kubectl("delete", one["kind"], one["metadata"]["name"], "--wait=false")
