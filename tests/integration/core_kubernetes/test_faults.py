"""The API server is down, slow, busy or cut off: never a 200 for what is not stored, and nothing twice."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import pytest
from aiohttp import web
from coding_agent_core.task.agenttask import manifest
from coding_agent_core.task.model import task_name
from coding_agent_testbed.bench.broker import freeze
from coding_agent_testbed.until import until_async

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.api_proxy import Answers, ApiProxy, Forward, HoldAnswers, obey
from tests.integration.core_kubernetes.events import Labeling, now, results
from tests.integration.core_kubernetes.place import Place
from tests.integration.core_kubernetes.test_exactly_once import is_to_be_read, item, label_request

HASTY = {"webhook_timeout": 4.0}  # meant to expire
"""The time limit of real use, for receivers that never get an answer in time."""


@contextmanager
def stopped(plane: PlaneUnderTest, name: str) -> Iterator[None]:
    """The process does nothing meanwhile, but its connections stay."""
    pid = plane.plane.processes.pid(name)
    assert pid is not None
    try:
        freeze(pid)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def refused(http: httpx2.AsyncClient, port: int, event: Labeling) -> None:
    """The event is answered 503 with Retry-After, and the receiver is not ready.

    A unit test shows that both answers come in time: `tests/unit/core_kubernetes/test_total_timeout.py`.
    """
    ready_url = f"http://127.0.0.1:{port}/readyz"
    answer, ready = await asyncio.gather(event.send(http, port), http.get(ready_url))
    assert (answer.status_code, ready.status_code) == (503, 503)
    assert int(answer.headers["Retry-After"]) > 0


async def recovers(http: httpx2.AsyncClient, port: int) -> None:
    """The receiver is ready again, without help."""

    async def ready() -> bool:
        return (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200

    await until_async("the receiver is ready", ready)


@pytest.mark.long
async def test_an_api_server_that_is_killed_or_stands_still_is_503_until_it_is_back(
    chaos_plane: PlaneUnderTest,
    place: Place,
    start_receiver: Callable[..., Program],
    http: httpx2.AsyncClient,
) -> None:
    port, hasty = start_receiver().port(), start_receiver(**HASTY).port()
    first, second = Labeling(1, "a", now()), Labeling(2, "b", now())
    await recovers(http, hasty)
    with stopped(chaos_plane, "kube-apiserver"):
        await refused(http, hasty, first)
    await recovers(http, hasty)
    await recovers(http, port)
    # What was under way when it stood still may have been stored: it is not a second task then.
    assert results([await first.send(http, port)]) in ({"success": 1}, {"duplicate": 1})

    chaos_plane.kill("kube-apiserver")
    await refused(http, hasty, second)
    chaos_plane.start("kube-apiserver")
    await recovers(http, hasty)
    await recovers(http, port)
    assert results([await second.send(http, port)]) == {"success": 1}
    assert sorted(place.tasks()) == sorted(task_name(item(number)) for number in (1, 2))


async def test_a_receiver_killed_between_create_and_answer_leaves_one_task(
    place: Place, start_receiver: Callable[..., Program], api_proxy: ApiProxy, http: httpx2.AsyncClient
) -> None:
    doomed = start_receiver(place.account(api_proxy.url))
    port = doomed.port()
    event = Labeling(7, "a", now())
    api_proxy.rule = hold = HoldAnswers("POST")
    sending = asyncio.create_task(event.send(http, port))
    async with asyncio.timeout(60):
        await hold.held.wait()
    doomed.kill()
    with pytest.raises(httpx2.HTTPError):
        await sending
    assert list(place.tasks()) == [task_name(item(7))]

    again = await event.send(http, start_receiver().port())
    assert again.json() == {"status": "duplicate", "task": task_name(item(7))}
    assert len(place.tasks()) == 1


async def test_an_answer_that_is_lost_is_no_reason_for_a_second_task(
    place: Place, start_receiver: Callable[..., Program], api_proxy: ApiProxy, http: httpx2.AsyncClient
) -> None:
    port = start_receiver(place.account(api_proxy.url)).port()
    api_proxy.rule = Answers([504], method="POST", after=True)
    assert results([await Labeling(7, "a", now()).send(http, port)]) == {"success": 1}
    api_proxy.rule = Answers([504], method="PATCH", after=True)
    assert results([await Labeling(7, "b", now(9), "unlabeled").send(http, port)]) == {"ignored": 1}
    assert is_to_be_read(place, item(7))


@pytest.mark.long
async def test_a_busy_api_server_is_asked_again_when_it_says_if_that_is_soon_enough(
    place: Place, start_receiver: Callable[..., Program], api_proxy: ApiProxy, http: httpx2.AsyncClient
) -> None:
    port = start_receiver(place.account(api_proxy.url)).port()
    await recovers(http, port)
    api_proxy.rule = Answers([429], retry_after="1", method="POST")
    begun = time.monotonic()
    assert results([await Labeling(1, "a", now()).send(http, port)]) == {"success": 1}
    assert time.monotonic() - begun > 1

    api_proxy.rule = Answers([429], retry_after="60", method="POST")
    posts = api_proxy.seen.count("POST")
    answer = await Labeling(2, "b", now()).send(http, port)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert api_proxy.seen.count("POST") == posts + 1, "no second attempt began"
    assert list(place.tasks()) == [task_name(item(1))]


async def test_a_changed_crd_refuses_no_event_of_an_item_with_a_task(
    place: Place, start_receiver: Callable[..., Program], api_proxy: ApiProxy, http: httpx2.AsyncClient
) -> None:
    """For seconds after each change of the CRD the API server lists nothing, but gets single objects."""
    port = start_receiver(place.account(api_proxy.url)).port()
    await recovers(http, port)
    api_proxy.rule = without_cache
    assert results([await Labeling(7, "a", now(-3600)).send(http, port)]) == {"success": 1}
    assert results([await Labeling(7, "a", now(-3600)).send(http, port)]) == {"duplicate": 1}
    place.read_item(task_name(item(7)))
    assert results([await Labeling(7, "b", now(9), "unlabeled").send(http, port)]) == {"ignored": 1}
    assert is_to_be_read(place, item(7))
    place.read_item(task_name(item(7)))
    assert results([await Labeling(7, "c", now(19)).send(http, port)]) == {"duplicate": 1}
    assert is_to_be_read(place, item(7))

    place.delete(task_name(item(7)))
    place.create(manifest(label_request(7), run=2))
    removal = Labeling(7, "d", now(29), "unlabeled")
    answer = await removal.send(http, start_receiver(place.account(api_proxy.url), **HASTY).port())
    assert answer.status_code == 503, "run 1 was deleted: only a list shows that there is a run 2"
    api_proxy.rule = obey
    assert results([await removal.send(http, port)]) == {"ignored": 1}
    assert is_to_be_read(place, item(7), run=2)


async def without_cache(request: web.Request, forward: Forward) -> web.StreamResponse:
    if request.method == "GET" and "labelSelector" in request.query:
        refusal = {"kind": "Status", "message": "storage is (re)initializing", "code": 429}
        return web.json_response(refusal, status=429, headers={"Retry-After": "1"})
    return await forward()


async def test_an_answer_that_is_not_kubernetes_is_503(
    place: Place, start_receiver: Callable[..., Program], api_proxy: ApiProxy, http: httpx2.AsyncClient
) -> None:
    async def captive(*_: object) -> web.StreamResponse:
        return web.Response(text="<html>Please log in</html>", content_type="text/html")

    program = start_receiver(place.account(api_proxy.url), **HASTY)
    api_proxy.rule = captive
    await refused(http, program.port(), Labeling(1, "a", now()))
    api_proxy.rule = obey
    await recovers(http, program.port())
    assert "is not JSON" in program.text()


async def test_a_label_that_meets_a_cancel_is_still_read(
    place: Place, start_receiver: Callable[..., Program], api_proxy: ApiProxy, http: httpx2.AsyncClient
) -> None:
    port = start_receiver(place.account(api_proxy.url)).port()
    assert results([await Labeling(7, "a", now()).send(http, port)]) == {"success": 1}

    async def cancel_first(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method == "PATCH":
            place.cancel(task_name(item(7)))
            api_proxy.rule = obey
        return await forward()

    api_proxy.rule = cancel_first
    answer = await Labeling(7, "b", now(9)).send(http, port)
    assert answer.json() == {"status": "duplicate", "task": task_name(item(7))}
    assert is_to_be_read(place, item(7)), "the write that met the other one is made again"
