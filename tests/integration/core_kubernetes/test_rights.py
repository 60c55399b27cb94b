"""The receiver's account may do what it must, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from coding_agent_cluster.access import Access, KubectlError
from coding_agent_core import agenttask

from tests.fixtures import accounts
from tests.fixtures.rights import allowed
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import Labeling, now, results
from tests.integration.core_kubernetes.place import ACCOUNT, Place

MAY = {"agenttasks.coding-agent.dev": {"create", "get", "list", "patch"}}
NOTHING = [
    "agenttasks.coding-agent.dev/status",
    "jobs.batch",
    "pods",
    "pods/log",
    "pods/exec",
    "secrets",
    "configmaps",
    "events",
    "leases.coordination.k8s.io",
    "serviceaccounts/token",
    "roles.rbac.authorization.k8s.io",
]


@pytest.fixture
def account(place: Place) -> Access:
    return Access(place.account(), place.plane.plane.binaries["kubectl"])


def test_every_other_verb_is_denied(place: Place, account: Access) -> None:
    found = {entry: allowed(account, entry, namespace=place.namespace) for entry in [*MAY, *NOTHING]}
    assert {item: verbs for item, verbs in found.items() if verbs} == MAY


@pytest.mark.parametrize(
    ("command", "denied"),
    [
        ("get secrets", 'list resource "secrets"'),
        ("get jobs", 'list resource "jobs"'),
        ("get pods", 'list resource "pods"'),
        ("delete agenttask any", 'delete resource "agenttasks"'),
        ("get agenttasks --watch", 'watch resource "agenttasks"'),
        ("get agenttasks --all-namespaces", 'list resource "agenttasks".* at the cluster scope'),
        ("create configmap c", 'create resource "configmaps"'),
    ],
)
def test_denied_in_practice(place: Place, account: Access, command: str, denied: str) -> None:
    assert account.get("-n", place.namespace, "agenttasks")["items"] == [], "it has its role"
    where = [] if "--all-namespaces" in command else ["-n", place.namespace]
    with pytest.raises(KubectlError, match=f"{place.namespace}:{ACCOUNT}.* cannot {denied}"):
        account.kubectl(*where, *command.split(), timeout=60)


async def test_without_its_role_the_receiver_says_what_it_needs(
    place: Place, start_receiver: Callable[..., Program], http: httpx.AsyncClient
) -> None:
    kubeconfig = place.account()
    place.plane.kubectl("-n", place.namespace, "delete", "rolebinding", ACCOUNT)
    creating = {"group": agenttask.GROUP, "resource": agenttask.PLURAL, "verb": "create"}
    accounts.until_may(place.plane, ACCOUNT, place.namespace, creating, may=False)
    program = start_receiver(kubeconfig)
    port = program.port()
    answer = await Labeling(1, "a", now()).send(http, port)
    assert answer.status_code == 503
    assert (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 503
    assert "receiver/deploy/role.yaml" in program.text()
    place.account()  # brings the binding back
    assert results([await Labeling(1, "a", now()).send(http, port)]) == {"success": 1}


async def test_credentials_that_were_replaced_are_read_again(
    place: Place, start_receiver: Callable[..., Program], http: httpx.AsyncClient
) -> None:
    kubeconfig = place.account()
    good = kubeconfig.read_text()
    config = json.loads(good)
    config["users"][0]["user"] = {"token": "has-run-out"}
    kubeconfig.write_text(json.dumps(config))
    port = start_receiver(kubeconfig).port()
    assert (await Labeling(1, "a", now()).send(http, port)).status_code == 503
    kubeconfig.write_text(good)
    assert results([await Labeling(1, "a", now()).send(http, port)]) == {"success": 1}
