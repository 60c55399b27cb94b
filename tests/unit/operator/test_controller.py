"""The controller's parts: the object cache, the work queue, and workers with backoff."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_operator.cluster.controller import (
    Controller,
    NamespacedName,
    ObjectCache,
    Requeue,
    WorkQueue,
)
from coding_agent_testbed.until import until_async

KEY = NamespacedName("team", "one")
A, B, C, D = (NamespacedName("team", name) for name in "abcd")


@dataclass(frozen=True)
class Stored:
    """An object of which its name alone is read."""

    version: str = field(compare=False)
    uid: str = field(default="uid-1", compare=False)
    namespace: str = "team"
    name: str = "one"


def stored(version: int, **fields: str) -> Stored:
    return Stored(str(version), **fields)


def version_of(objects: ObjectCache[Stored]) -> int | None:
    found = objects.get(KEY)
    return None if found is None else int(found.version)


def test_the_newest_version_stays_in_whatever_order_they_come() -> None:
    for order in itertools.permutations([3, 5, 9]):
        objects = ObjectCache[Stored]()
        for version in order:
            objects.observe("MODIFIED", stored(version))
        assert version_of(objects) == 9


def test_an_answer_that_comes_late_does_not_bring_back_what_is_gone() -> None:
    objects = ObjectCache[Stored]()
    objects.put(stored(5))
    assert objects.remove(stored(7))
    assert not objects.put(stored(6))
    assert objects.get(KEY) is None
    assert objects.put(stored(8)), "its label was put on again"


def test_a_version_in_which_nothing_that_is_read_has_changed_is_not_new() -> None:
    objects = ObjectCache[Stored]()
    assert objects.observe("ADDED", stored(5))
    assert not objects.observe("MODIFIED", stored(6))
    assert objects.replace("team", [stored(7)], 7) == set()
    assert objects.observe("MODIFIED", stored(8, uid="uid-2")), "it is another object"
    assert not objects.remove(stored(7)), "the version counts all the same"


def test_a_deletion_that_comes_late_does_not_take_a_newer_object() -> None:
    objects = ObjectCache[Stored]()
    objects.put(stored(9, uid="uid-2"))
    assert not objects.observe("DELETED", stored(7, uid="uid-1"))
    assert version_of(objects) == 9


def test_a_list_removes_what_it_lacks_but_not_what_is_newer() -> None:
    objects = ObjectCache[Stored]()
    objects.put(stored(5))
    assert objects.replace("team", [], 4) == set()
    assert version_of(objects) == 5
    assert objects.replace("team", [], 6) == {KEY}
    assert objects.get(KEY) is None


def test_a_list_of_one_namespace_leaves_the_others_alone() -> None:
    objects = ObjectCache[Stored]()
    objects.put(stored(5))
    objects.put(stored(6, uid="uid-2", namespace="other"))
    assert objects.replace("other", [], 9) == {NamespacedName("other", "one")}
    assert (objects.of("team"), objects.of("other"), len(objects)) == ([stored(5)], [], 1)


def test_a_dead_watch_is_noticed_and_a_slow_one_is_not() -> None:
    objects = ObjectCache[Stored]()
    objects.replace("team", [stored(5)], 6)
    assert objects.behind("team") == 1, "nothing has come since"
    objects.observe(None, stored(5))
    assert objects.behind("team") == 0
    objects.replace("team", [stored(8)], 8)
    objects.remove(stored(9))
    assert objects.behind("team") == 0, "what is gone cannot be shown"


async def test_a_key_is_handed_out_once_and_again_only_after_it_is_done() -> None:
    queue = WorkQueue()
    for _ in range(3):
        queue.add(A)
    assert await queue.take() == A
    queue.add(A)
    queue.add(B)
    assert await queue.take() == B
    assert len(queue) == 0
    queue.done(A)
    assert await queue.take() == A


async def test_the_urgent_comes_first() -> None:
    queue = WorkQueue()
    for key in (A, B, C):
        queue.add(key)
    queue.add(C, urgent=True)
    queue.add(D, urgent=True)
    assert [await queue.take() for _ in range(4)] == [D, C, A, B]


async def test_what_is_due_later_comes_at_the_soonest_time_asked_for() -> None:
    queue = WorkQueue()
    queue.add_later(A, 30)
    queue.add_later(A, 0.01)
    queue.add_later(B, 0.02)
    async with asyncio.timeout(60):
        assert [await queue.take(), await queue.take()] == [A, B]
    queue.add_later(C, 0.01)
    queue.forget(C)
    queue.add_later(D, 0.02)
    async with asyncio.timeout(60):
        assert await queue.take() == D


async def test_idle_waits_for_the_workers_of_that_namespace_alone() -> None:
    queue = WorkQueue()
    queue.add(A)
    queue.add(NamespacedName("other", "a"))
    assert [await queue.take(), await queue.take()] == [A, ("other", "a")]
    idle = asyncio.create_task(queue.idle("team"))
    await asyncio.wait([idle], timeout=0.05)
    assert not idle.done()
    queue.done(A)
    await asyncio.wait_for(idle, 60)


async def _working(
    reconcile: Callable[[NamespacedName], Awaitable[Requeue]], until: Callable[[], bool]
) -> tuple[Controller, list[Exception]]:
    errors: list[Exception] = []

    async def on_error(_: NamespacedName, error: Exception) -> None:
        errors.append(error)

    controller = Controller(reconcile, workers=2, on_error=on_error)
    controller.queue.add(A)
    work = asyncio.create_task(controller.run())
    await until_async("the controller has done it", until, interval=0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return controller, errors


async def test_what_fails_is_tried_again_later_and_what_conflicts_at_once() -> None:
    outcomes: list[Exception | None] = [ApiError("stale", 409), ValueError("broken"), None]
    seen: list[Exception | None] = []

    async def reconcile(key: NamespacedName) -> Requeue:
        assert key == A
        seen.append(outcomes[len(seen)])
        if (error := seen[-1]) is not None:
            raise error
        return Requeue()

    controller, errors = await _working(reconcile, lambda: len(seen) == 3)
    assert errors == outcomes[:2]
    assert not controller.retries_later(A)


async def test_a_failure_that_cannot_be_shown_ends_no_worker() -> None:
    seen: list[NamespacedName] = []

    async def reconcile(key: NamespacedName) -> Requeue:
        seen.append(key)
        if len(seen) == 1:
            raise ApiError("stale", 409)
        return Requeue()

    async def on_error(key: NamespacedName, error: Exception) -> None:
        raise OverflowError(key)

    controller = Controller(reconcile, workers=1, on_error=on_error)
    controller.queue.add(A)
    work = asyncio.create_task(controller.run())
    await until_async("it is tried again", lambda: len(seen) == 2 or work.done(), interval=0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert seen == [A, A]


async def test_while_a_retry_is_not_due_the_controller_says_so() -> None:
    tries: list[NamespacedName] = []

    async def reconcile(key: NamespacedName) -> Requeue:
        tries.append(key)
        raise ApiError("quota", 403, retry_after=60)

    controller, _ = await _working(reconcile, lambda: bool(tries))
    assert controller.retries_later(A)
    assert not controller.retries_later(B)
