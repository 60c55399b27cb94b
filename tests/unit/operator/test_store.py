"""What was seen: the newest of watches, lists and answers, in whatever order they come."""

from __future__ import annotations

import itertools
from typing import Any

from coding_agent_operator.observed import Task, read_task
from coding_agent_operator.store import Shelf

from tests.unit.operator.making import task_body


def body(version: int, uid: str = "uid-1", **spec: Any) -> dict[str, Any]:
    made = task_body(uid=uid, **spec)
    made["metadata"]["resourceVersion"] = str(version)
    return made


NAME = body(1)["metadata"]["name"]


def shelf() -> Shelf[Task]:
    return Shelf(read_task)


def version(tasks: Shelf[Task]) -> int | None:
    found = tasks.get(NAME)
    return int(found.version) if found else None


def test_the_newest_version_stays_in_whatever_order_they_come() -> None:
    for order in itertools.permutations([3, 5, 9]):
        tasks = shelf()
        for each in order:
            tasks.watched(body(each))
        assert version(tasks) == 9


def test_an_answer_that_comes_late_does_not_bring_back_what_is_gone() -> None:
    tasks = shelf()
    tasks.put(body(5))
    assert tasks.unwatched(body(7))
    assert tasks.put(body(6)) is None
    assert version(tasks) is None
    assert tasks.put(body(8)) is not None, "its label was put on again"


def test_a_deletion_that_comes_late_does_not_take_a_newer_one() -> None:
    tasks = shelf()
    tasks.put(body(9, uid="uid-2"))
    assert not tasks.unwatched(body(7, uid="uid-1"))
    assert version(tasks) == 9


def test_a_list_removes_what_it_lacks_but_not_what_is_newer() -> None:
    tasks = shelf()
    tasks.put(body(5))
    assert tasks.replace([], 4)[0] == set()
    assert version(tasks) == 5
    assert tasks.replace([], 6)[0] == {NAME}
    assert version(tasks) is None


def test_a_dead_watch_is_noticed_and_a_slow_one_is_not() -> None:
    tasks = shelf()
    _, missed = tasks.replace([body(5)], 6)
    assert {each.version for each in missed} == {5}
    assert tasks.still_missed(missed), "nothing has come since"
    tasks.watched(body(5))
    assert not tasks.still_missed(missed)
    _, missed = tasks.replace([body(8)], 8)
    tasks.unwatched(body(9))
    assert not tasks.still_missed(missed), "what is gone cannot be shown"


def test_a_task_that_cannot_be_read_is_left_out() -> None:
    tasks = shelf()
    broken = body(5)
    broken["spec"]["taskKey"] = {"type": "?"}
    assert tasks.watched(broken) is None
    assert len(tasks) == 0
