"""The reporter's account may do what `deploy/reporter-role.yaml` gives, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.integration.operator_reporter.process import account
from tests.integration.operator_reporter.world import World

MAY = [
    *(
        f"{verb} agenttasks.coding-agent.dev"
        for verb in ("get", "list", "watch", "create", "patch", "delete")
    ),
    "patch agenttasks.coding-agent.dev/status",
    "create events",
]
MAY_NOT = [
    *(f"{verb} agenttasks.coding-agent.dev" for verb in ("update", "deletecollection")),
    "update agenttasks.coding-agent.dev/status",
    *(f"{verb} jobs.batch" for verb in ("get", "list", "create", "delete", "patch")),
    *(f"{verb} pods" for verb in ("get", "list", "create", "delete")),
    *(f"create pods/{each}" for each in ("exec", "log", "eviction")),
    *(f"{verb} secrets" for verb in ("get", "list", "watch", "create")),
    *(f"{verb} configmaps" for verb in ("get", "list", "create")),
    *(f"{verb} events" for verb in ("list", "get", "delete")),
    "create serviceaccounts/token",
    "list namespaces",
    "list nodes",
    "list customresourcedefinitions.apiextensions.k8s.io",
    "get roles.rbac.authorization.k8s.io",
]


@pytest.mark.parametrize("flavour", ["github"])
def test_what_it_may_and_may_not(world: World) -> None:
    own = config.new_client_from_config(  # type: ignore[no-untyped-call]
        str(account(world.plane, world.namespace, world.folder))
    )
    review = client.AuthorizationV1Api(own)

    def allowed(right: str, namespace: str) -> bool:
        verb, resource = right.split()
        resource, _, subresource = resource.partition("/")
        resource, _, group = resource.partition(".")
        asked = {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        wanted: Any = {"spec": {"resourceAttributes": asked}}
        answer: Any = review.create_self_subject_access_review(wanted, _request_timeout=10)
        return bool(answer.status.allowed)

    assert {right: allowed(right, world.namespace) for right in MAY} == dict.fromkeys(MAY, True)
    assert {right: allowed(right, world.namespace) for right in MAY_NOT} == dict.fromkeys(MAY_NOT, False)
    assert not allowed("list agenttasks.coding-agent.dev", "default"), "in its own namespace only"

    # And what is denied is denied.
    for denied in (client.CoreV1Api(own).list_namespaced_secret, client.BatchV1Api(own).list_namespaced_job):
        with pytest.raises(ApiException) as raised:
            denied(world.namespace, _request_timeout=10)
        assert raised.value.status == 403
