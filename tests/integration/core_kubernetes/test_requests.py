"""How many requests to the API server a webhook costs, by the API server's audit log."""

import json
from collections.abc import Callable

import httpx2
import pytest
from coding_agent_core.task import agenttask
from coding_agent_core.task.model import task_name
from coding_agent_testbed.until import until

from tests.fixtures import accounts
from tests.fixtures.audit import requests
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import Labeling, now, results
from tests.integration.core_kubernetes.place import ACCOUNT, Place
from tests.integration.core_kubernetes.test_exactly_once import item
from tests.integration.core_kubernetes.test_faults import recovers

NEW = 3
CREATED, TAKEN, LISTED, WRITTEN = (
    "create agenttasks",
    "create agenttasks: 409",
    "list agenttasks",
    "patch agenttasks",
)


class Receiver:
    """A receiver, and what it has asked the API server for."""

    def __init__(self, place: Place, port: int, http: httpx2.AsyncClient) -> None:
        self._place = place
        self._port = port
        self._http = http
        self._seen = 0

    async def connects(self) -> None:
        """What the first connection costs is not a webhook's."""
        await recovers(self._http, self._port)
        until("the log has the probe", self._log, timeout=60)
        self._seen = len(self._log())

    async def takes(self, event: Labeling, result: str, *expected: str) -> None:
        """A webhook comes, and exactly this is asked for; what comes too late shows next time."""
        assert results([await event.send(self._http, self._port)]) == {result: 1}
        until("the log has it", lambda: len(self._log()) >= self._seen + len(expected), timeout=60)
        new = self._log()[self._seen :]
        self._seen += len(new)
        assert new == list(expected)

    def _log(self) -> list[str]:
        asked = requests(self._place.plane, self._place.namespace, ACCOUNT)
        return [str(request) for request in asked]


@pytest.fixture
async def receiver(
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
) -> Receiver:
    """A receiver that is connected to the API server."""
    found = Receiver(place, start_receiver().port(), http)
    await found.connects()
    return found


async def test_each_new_label_costs_one_request(receiver: Receiver) -> None:
    for number in range(1, NEW + 1):
        event = Labeling(number, f"d-{number}", now())
        await receiver.takes(event, "success", CREATED)


async def test_a_label_of_an_item_with_a_task_asks_for_a_read_of_the_item(
    place: Place, receiver: Receiver
) -> None:
    first = Labeling(7, "a", now(-30))
    await receiver.takes(first, "success", CREATED)
    await receiver.takes(first, "duplicate", TAKEN, LISTED, WRITTEN)
    await receiver.takes(Labeling(7, "b", now(-20)), "duplicate", TAKEN, LISTED, WRITTEN)
    await receiver.takes(Labeling(7, "c", now(-10), "unlabeled"), "ignored", LISTED, WRITTEN)
    place.end(task_name(item(7)), succeeded=True)
    await receiver.takes(Labeling(7, "d", now(60)), "duplicate", TAKEN, LISTED, WRITTEN)


async def test_without_its_role_the_receiver_says_what_it_needs(
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
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
    place: Place, start_receiver: Callable[..., Program], http: httpx2.AsyncClient
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
