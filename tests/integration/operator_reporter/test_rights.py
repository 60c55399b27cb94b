"""The reporter's account may do what `deploy/reporter-role.yaml` gives, and nothing else."""

from __future__ import annotations

import pytest
from coding_agent_cluster.access import Access
from kubernetes.client.exceptions import ApiException

from tests.fixtures.rights import allowed
from tests.integration.operator_reporter.process import account
from tests.integration.operator_reporter.world import World

MAY = {
    "agenttasks.coding-agent.dev": {"get", "list", "watch", "create", "patch"},
    "agenttasks.coding-agent.dev/status": {"patch"},
    "events": {"create"},
}
NOTHING = [
    "agenttasks.coding-agent.dev/finalizers",
    "jobs.batch",
    "pods",
    "pods/exec",
    "pods/log",
    "pods/eviction",
    "secrets",
    "configmaps",
    "leases.coordination.k8s.io",
    "serviceaccounts",
    "serviceaccounts/token",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "namespaces",
    "nodes",
    "customresourcedefinitions.apiextensions.k8s.io",
]


@pytest.mark.parametrize("flavour", ["github"])
def test_what_it_may_and_nothing_else(world: World) -> None:
    kubeconfig = account(world.plane, world.namespace, world.folder)
    reporter = Access(kubeconfig, world.plane.plane.binaries["kubectl"])
    found = {entry: allowed(reporter, entry, namespace=world.namespace) for entry in [*MAY, *NOTHING]}
    assert {item: verbs for item, verbs in found.items() if verbs} == MAY
    for other in ("default", ""):
        assert not any(allowed(reporter, candidate, namespace=other) for candidate in MAY), (
            "in its own namespace only"
        )

    # And what is denied is denied.
    for denied in (reporter.core.list_namespaced_secret, reporter.batch.list_namespaced_job):
        with pytest.raises(ApiException) as raised:
            denied(world.namespace, _request_timeout=10)
        assert raised.value.status == 403
