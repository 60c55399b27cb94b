"""The relist: what is new since the last one, and what no watch has shown."""

import asyncio

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_operator.cluster.controller import NamespacedName, ObjectCache
from coding_agent_operator.cluster.observed import Job
from coding_agent_operator.cluster.watching import Relist, pause_after

from tests.unit.operator import making

KEY = NamespacedName("team", "one")


def stored(version: int) -> Job:
    return making.job(namespace="team", name="one", version=str(version))


async def test_a_relist_tells_what_is_new_and_of_a_watch_that_shows_nothing() -> None:
    objects = ObjectCache[Job]()
    there = [stored(5)]
    changes: list[set[NamespacedName]] = []
    behind: list[int] = []

    async def lists() -> tuple[list[Job], int]:
        return there, 9

    async def listed(changed: set[NamespacedName]) -> None:
        changes.append(changed)

    relist = Relist("team", [(objects, lists)], 60, listed=listed, behind=behind.append)
    assert not relist.synced.is_set()
    await relist.once()
    assert relist.synced.is_set()
    assert (changes, behind, relist.watch_dead) == ([{KEY}], [0], False)
    await relist.once()
    assert (changes[1:], behind, relist.watch_dead) == ([set()], [0, 1], True)
    objects.observe(None, stored(5))
    assert not relist.watch_dead, "the watch has caught up"
    await relist.once()
    assert behind == [0, 1, 0]


@pytest.mark.parametrize(
    ("took", "behind", "pause"),
    [(0.1, 0, 30), (1.5, 0, 30), (4.0, 0, 80), (4.0, 1, 30), (120.0, 0, 600), (120.0, 1, 30)],
)
def test_an_expensive_list_is_rare_while_the_watches_show_everything(
    took: float, behind: int, pause: float
) -> None:
    assert pause_after(took, 30, behind) == pause
    assert pause_after(took, 1200, behind) == 1200


async def test_a_relist_that_is_refused_is_repeated_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coding_agent_operator.cluster.watching._RELIST_RETRY_S", 0.01)
    tries: list[int] = []

    async def lists() -> tuple[list[Job], int]:
        tries.append(1)
        if len(tries) < 3:
            raise ApiError("away", None)
        return [], 1

    async def listed(_: set[NamespacedName]) -> None: ...

    relist = Relist("team", [(ObjectCache[Job](), lists)], 60, listed=listed, behind=lambda _: None)
    work = asyncio.create_task(relist.run())
    await asyncio.wait_for(relist.synced.wait(), 60)
    work.cancel()
