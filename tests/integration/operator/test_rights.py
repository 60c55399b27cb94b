"""The operator's account may do what `deploy/role.yaml` gives, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from coding_agent_cluster.access import Access, KubectlError

from tests.integration.operator.world import World, account

MAY = [
    *(f"{verb} agenttasks" for verb in ("get", "list", "watch", "patch", "delete")),
    "patch agenttasks/status",
    *(f"{verb} jobs" for verb in ("get", "list", "watch", "create", "patch", "delete")),
    "list pods",
    "create events",
]
MAY_NOT = [
    *(f"{verb} agenttasks" for verb in ("create", "update", "deletecollection")),
    "update agenttasks/finalizers",
    *(f"{verb} jobs" for verb in ("update", "deletecollection")),
    *(f"{verb} pods" for verb in ("get", "watch", "create", "patch", "delete")),
    *(f"{verb} {resource}" for verb in ("create", "get") for resource in ("pods/exec", "pods/log")),
    *(f"{verb} secrets" for verb in ("get", "list", "watch", "create")),
    *(f"{verb} configmaps" for verb in ("get", "list")),
    "create serviceaccounts/token",
    "get roles",
    "list events",
    "list namespaces",
    "list customresourcedefinitions",
    "list nodes",
]


def test_what_it_may_and_may_not(world: World, tmp_path: Path) -> None:
    kubeconfig = account(world.plane, world.namespace, tmp_path)
    operator = Access(kubeconfig, world.plane.plane.binaries["kubectl"])

    def allowed(right: str, namespace: str) -> bool:
        try:
            return operator.kubectl("-n", namespace, "auth", "can-i", *right.split()).strip() == "yes"
        except KubectlError:
            return False

    assert {right: allowed(right, world.namespace) for right in MAY} == dict.fromkeys(MAY, True)
    assert {right: allowed(right, world.namespace) for right in MAY_NOT} == dict.fromkeys(MAY_NOT, False)
    assert not allowed("list agenttasks", "default"), "in its own namespace only"


def test_a_denied_request_is_denied(world: World, tmp_path: Path) -> None:
    kubeconfig = account(world.plane, world.namespace, tmp_path)
    operator = Access(kubeconfig, world.plane.plane.binaries["kubectl"])
    for resource in ("secrets", "configmaps", "serviceaccounts"):
        with pytest.raises(
            KubectlError, match=f"{world.namespace}:coding-agent-operator.*cannot list.*{resource}"
        ):
            operator.kubectl("-n", world.namespace, "get", resource)
    name = world.create(7)
    assert name in operator.kubectl("-n", world.namespace, "get", "agt")
