"""Whose the Lease is: the rules, and a holder that cannot renew."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_operator.cluster.lease import Lease, ObservedLease, elapsed_seconds, free, identity, seen
from coding_agent_operator.cluster.requests import Cluster

from tests.unit.operator.making import job


def lease(holder: str = "other", since: float = 100.0) -> ObservedLease:
    return ObservedLease("1", holder, 15.0, since)


@pytest.mark.parametrize(
    ("holder", "now", "may"),
    [
        ("other", 101, False),
        ("other", 114.9, False),
        ("other", 115, True),
        ("me", 101, True),
        ("", 101, True),
    ],
)
def test_it_is_free_when_given_back_ours_or_silent(holder: str, now: float, may: bool) -> None:
    assert free(lease(holder), "me", now) is may


def test_only_a_new_version_counts_as_a_sign_of_life() -> None:
    def body(version: str) -> dict[str, Any]:
        spec = {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "1999-01-01T00:00:00Z"}
        return {"metadata": {"resourceVersion": version}, "spec": spec}

    first = seen(body("1"), None, 100)
    assert seen(body("1"), first, 110).since == 100
    assert seen(body("2"), first, 110).since == 110, "whatever the clock of the other says"


def test_who_we_are() -> None:
    assert identity({"POD_NAME": "operator-1"}) == "operator-1"
    inside = identity({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert identity({}).startswith(f"{inside}-"), "outside of a pod each process is one of its own"


def test_the_clock_also_counts_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1000.0 + clock)
    assert elapsed_seconds() == 1007
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert elapsed_seconds() == pytest.approx(time.monotonic(), abs=600)


class Server:
    """Answers as the API server does, or not at all."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.silent = False

    async def get(self, _: str) -> dict[str, Any] | None:
        self._answer()
        return self.lease

    async def request(self, method: str, _: str, *, body: Any, **__: Any) -> dict[str, Any]:
        self._answer()
        if method == "POST":
            self.lease = {"metadata": {"resourceVersion": "1"}, "spec": body["spec"]}
            return self.lease
        if self.lease is None:
            raise ApiError("not found", 404)
        version = self.lease["metadata"]["resourceVersion"]
        if body[0]["value"] != version:
            raise ApiError("it has changed", 422)
        spec = self.lease["spec"] | {entry["path"].split("/")[-1]: entry["value"] for entry in body[1:]}
        self.lease = {"metadata": {"resourceVersion": str(int(version) + 1)}, "spec": spec}
        return self.lease

    def _answer(self) -> None:
        if self.silent:
            raise ApiError("no answer", None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken_by(me: str, server: Server, clock: Clock, acts: Callable[[bool], object] = bool) -> Lease:
    return Lease(server, "ns", "program", me, 15, acts=acts, clock=clock)  # type: ignore[arg-type]


async def test_the_fence_closes_before_another_may_take_it_and_opens_again_if_none_did() -> None:
    server, clock = Server(), Clock()
    cluster = Cluster(server, "ns")  # type: ignore[arg-type]
    mine = taken_by("me", server, clock)
    await mine.acquire()
    assert mine.held()
    cluster.may_write = mine.held
    server.silent = True
    clock.now += 9
    assert not await mine.renew()
    assert mine.held()
    mine.require()
    clock.now += 1
    assert not mine.held(), "5 s before another may take it: time for a request that is under way"
    with pytest.raises(ApiError, match="does not hold the Lease program"):
        mine.require()
    with pytest.raises(ApiError, match="writes nothing"):
        await cluster.create_job({})
    server.silent = False
    assert await mine.renew()
    assert mine.held()


async def test_the_fence_is_counted_from_the_request_and_not_from_its_late_answer() -> None:
    server, clock = Server(), Clock()
    mine = taken_by("me", server, clock)
    asked = clock.now
    answers = server.request

    async def late(*arguments: Any, **named: Any) -> dict[str, Any]:
        answer = await answers(*arguments, **named)
        clock.now += 4
        return answer

    server.request = late  # type: ignore[method-assign]
    await mine.acquire()
    clock.now = asked + 9.9
    assert mine.held()
    clock.now = asked + 10
    assert not mine.held()


async def test_without_the_lease_nothing_is_written() -> None:
    server = Server()
    cluster = Cluster(server, "ns")  # type: ignore[arg-type]
    cluster.may_write = lambda: False
    a_job = job()
    for write in (
        cluster.create_job({}),
        cluster.create_volume_claim({}),
        cluster.delete_job(a_job),
        cluster.release_job(a_job, 60),
    ):
        with pytest.raises(ApiError, match="writes nothing"):
            await write


async def test_one_that_acted_never_takes_it_again_after_another_had_it() -> None:
    """It does not know what the other did: it has to begin anew."""
    server, clock = Server(), Clock()
    mine = taken_by("me", server, clock)
    await mine.acquire()
    assert server.lease is not None
    server.lease = {"metadata": {"resourceVersion": "9"}, "spec": {"holderIdentity": ""}}
    clock.now += 20
    assert [await mine.renew() for _ in range(3)] == [False] * 3
    assert not mine.held()
    await taken_by("new", server, clock).acquire()


async def test_given_back_it_is_free_at_once_and_deleted_it_is_made_again() -> None:
    server, clock = Server(), Clock()
    mine = taken_by("me", server, clock)
    await mine.acquire()
    server.lease = None
    assert [await mine.renew() for _ in range(2)] == [False, True]
    await mine.release()
    assert not mine.held()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_it_is_given_back_although_a_renewal_was_cancelled_that_was_done() -> None:
    server, clock = Server(), Clock()
    mine = taken_by("me", server, clock)
    await mine.acquire()
    done = asyncio.Event()
    answers = server.request

    async def without_an_answer(*arguments: Any, **named: Any) -> dict[str, Any]:
        await answers(*arguments, **named)
        done.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    server.request = without_an_answer  # type: ignore[method-assign]
    renewal = asyncio.create_task(mine.renew())
    await done.wait()
    renewal.cancel()
    await asyncio.gather(renewal, return_exceptions=True)
    server.request = answers  # type: ignore[method-assign]
    await mine.release()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""


async def test_what_another_has_by_now_is_not_given_back() -> None:
    server, clock = Server(), Clock()
    mine = taken_by("me", server, clock)
    await mine.acquire()
    server.lease = {"metadata": {"resourceVersion": "9"}, "spec": {"holderIdentity": "other"}}
    await mine.release()
    assert server.lease["spec"]["holderIdentity"] == "other"


async def test_it_says_when_it_acts_and_when_no_more() -> None:
    server, clock, said = Server(), Clock(), list[bool]()
    mine = taken_by("me", server, clock, said.append)
    await mine.acquire()
    await mine.release()
    assert said == [True, False]
