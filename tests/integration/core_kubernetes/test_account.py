"""The receiver's account: what it says without its rights, and credentials that are replaced."""

import json
from collections.abc import Callable

import httpx
from coding_agent_core import agenttask

from tests.fixtures import accounts
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import Labeling, now, results
from tests.integration.core_kubernetes.place import ACCOUNT, Place


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
