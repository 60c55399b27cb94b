"""Who may start: limits, fairness, priority, items."""

from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.settings.operator import Limits
from coding_agent_operator.cluster.observed import Job, Pod
from coding_agent_operator.scheduling.fair_share import (
    Candidate,
    Limited,
    coarse,
    fair_schedule,
    orphans_of,
)
from coding_agent_operator.tasks.state import Stage

from tests.unit.operator.making import NOW, ago, job, pod

READY, ACTIVE = Stage.READY, Stage.ACTIVE


def waiting(name: str, repository: str = "r", **fields: Any) -> Candidate:
    plain: dict[str, Any] = {"item": name, "created": ago(10), "stage": READY, "repository_limit": 100}
    return Candidate(name=name, repository=repository, **(plain | fields))


def running(name: str, repository: str = "r", **fields: Any) -> Candidate:
    return waiting(name, repository, stage=ACTIVE, **fields)


def start(*tasks: Candidate, limit: int = 100) -> list[str]:
    return list(fair_schedule(tasks, limit, NOW, aging=60).start)


STARTS: list[tuple[str, list[Candidate], int, list[str]]] = [
    ("room for all", [waiting("a"), waiting("b")], 2, ["a", "b"]),
    ("global limit", [running("a"), waiting("b"), waiting("c")], 2, ["b"]),
    ("at the limit", [running("a"), waiting("b")], 1, []),
    ("over the limit: it was lowered", [running("a"), running("b"), waiting("c")], 1, []),
    ("limit 0", [waiting("a")], 0, []),
    (
        "repository's limit",
        [running("a", repository_limit=1), waiting("b", repository_limit=1), waiting("c", "s")],
        9,
        ["c"],
    ),
    ("older first", [waiting("a", created=ago(1)), waiting("b", created=ago(9))], 1, ["b"]),
    ("higher priority first", [waiting("a"), waiting("b", priority=5)], 1, ["b"]),
    ("waiting raises priority", [waiting("a", created=ago(600)), waiting("b", priority=5)], 1, ["a"]),
    ("fewest running first", [running("a"), waiting("b", created=ago(99)), waiting("c", "s")], 2, ["c"]),
    (
        "in turns",
        [waiting("a1", "a"), waiting("a2", "a"), waiting("b1", "b"), waiting("b2", "b")],
        4,
        ["a1", "b1", "a2", "b2"],
    ),
    ("one of an item", [running("a", item="i"), waiting("b", item="i", run=2)], 9, []),
    ("older run first", [waiting("b", item="i", run=2, priority=9), waiting("a", item="i")], 9, ["a"]),
    (
        "an older run in backoff",
        [waiting("b", item="i", run=2), waiting("a", item="i", stage=Stage.BACKOFF)],
        9,
        [],
    ),
    (
        "an older run that ended",
        [waiting("b", item="i", run=2), waiting("a", item="i", stage=Stage.ENDED)],
        9,
        ["b"],
    ),
    ("suspended", [waiting("a", stage=Stage.SUSPENDED)], 9, []),
]


@pytest.mark.parametrize(("tasks", "limit", "expected"), [r[1:] for r in STARTS], ids=[r[0] for r in STARTS])
def test_who_starts(tasks: list[Candidate], limit: int, expected: list[str]) -> None:
    assert start(*tasks, limit=limit) == expected
    assert start(*reversed(tasks), limit=limit) == expected, "the order of listing means nothing"


def test_positions_are_the_order_of_starting() -> None:
    tasks = [waiting(f"{repo}{n}", repo, created=ago(100 - n)) for repo in "ab" for n in range(4)]
    planned = fair_schedule(tasks, 2, NOW, aging=60)
    assert planned.start == ("a0", "b0")
    assert list(planned.positions) == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert list(planned.positions.values()) == [1, 2, 3, 4, 5, 6]


def test_a_waiting_run_knows_for_whom() -> None:
    planned = fair_schedule([running("a", item="i"), waiting("b", item="i", run=2)], 9, NOW, aging=60)
    assert planned.after == {"b": "a"}
    assert planned.positions == {"b": 1}


def test_a_single_task_of_a_repository_starts_in_the_first_round() -> None:
    crowd = [waiting(f"c{n}", "crowd", created=ago(9999)) for n in range(900)]
    busy = [running(f"b{n}", "crowd") for n in range(49)]
    assert start(*crowd, *busy, waiting("single", "small", created=NOW), limit=50) == ["single"]


def test_nobody_starves_behind_higher_priorities() -> None:
    """One place; every minute a task of the highest priority comes; the old one starts all the same."""
    old = waiting("old", priority=-10, created=NOW)
    for minute in range(200):
        now = NOW + timedelta(minutes=minute)
        rival = waiting(f"new{minute}", priority=100, created=now)
        if "old" in fair_schedule([old, rival], 1, now, aging=60).start:
            assert minute == 110
            return
    pytest.fail("it starved")


LIMITS: list[tuple[str, list[Candidate], int, dict[str, Limited]]] = [
    ("nothing waits", [running("a"), waiting("b")], 2, {}),
    ("the global limit", [running("a"), waiting("b")], 1, {"b": Limited.GLOBAL}),
    ("what starts fills it", [waiting("a", created=ago(99)), waiting("b")], 1, {"b": Limited.GLOBAL}),
    (
        "the repository's limit",
        [running("a", repository_limit=1), waiting("b", repository_limit=1)],
        9,
        {"b": Limited.REPOSITORY},
    ),
    (
        "both limits",
        [running("a", repository_limit=1), waiting("b", repository_limit=1)],
        1,
        {"b": Limited.REPOSITORY},
    ),
    (
        "another run of the item, which is said instead",
        [running("a", item="i"), waiting("b", item="i")],
        9,
        {},
    ),
]


@pytest.mark.parametrize(
    ("tasks", "limit", "expected"), [row[1:] for row in LIMITS], ids=[row[0] for row in LIMITS]
)
def test_a_waiting_task_knows_the_limit(
    tasks: list[Candidate], limit: int, expected: dict[str, Limited]
) -> None:
    assert fair_schedule(tasks, limit, NOW, aging=60).limited == expected


def test_positions_are_shown_coarsely() -> None:
    assert [coarse(n) for n in (1, 9, 10, 11, 20, 21, 99, 100, 101, 200, 999)] == [
        *(1, 9, 10, 20, 20, 30, 100, 100, 200, 200, 1000)
    ]
    assert all(coarse(n) >= n for n in range(1, 3000))
    assert len({coarse(n) for n in range(1, 1001)}) == 28, "what one of 1,000 tasks shows in its whole life"


def test_a_repository_has_its_own_limit() -> None:
    limits = Limits.model_validate(
        {"global": 9, "per_repository": 2, "overrides": {"O/Big": 7, "ghe.test/o/r": 1}}
    )
    assert limits.global_ == 9
    assert limits.of("github.com", "o/big") == 7
    assert limits.of("GHE.test", "o/r") == 1
    assert limits.of("github.com", "o/r") == 2


def living(**fields: Any) -> Pod:
    plain: dict[str, Any] = {"phase": "Running", "item": "i", "repository": "r"}
    return pod(**(plain | {"job_uid": "job-1", "job_name": "t-1"} | fields))


@pytest.mark.parametrize(
    ("jobs", "pods", "known", "open_attempts", "expected"),
    [
        # Jobs without a task, pods that run, uids of all Jobs, Jobs of attempts without a recorded end.
        ([], [living()], [], [], ["pod/p"]),
        ([], [living()], ["job-1"], [], []),
        ([], [living()], [], ["t-1"], []),
        ([], [living(), living(name="q")], [], [], ["pod/p"]),
        ([], [living(), living(name="q", job_uid="job-2")], ["job-2"], [], ["pod/p"]),
        ([job(1)], [living()], ["job-1"], [], [f"job/{job(1).name}"]),
        ([job(1, complete=True)], [], ["job-1"], [], []),
    ],
)
def test_what_runs_without_a_task_or_a_job(
    jobs: list[Job], pods: list[Pod], known: list[str], open_attempts: list[str], expected: list[str]
) -> None:
    found = orphans_of(jobs, pods, known=known, open_attempts=open_attempts)
    assert [orphan.name for orphan in found] == expected


def test_a_deleted_tasks_pod_keeps_its_place_and_its_item() -> None:
    [orphan] = orphans_of([], [living()], known=[], open_attempts=[])
    holder = Candidate(orphan.name, orphan.item, orphan.repository, orphan.created, Stage.ACTIVE)
    rest = [waiting("same", "r", item="i"), waiting("other", "r", item="o")]
    assert start(holder, *rest, limit=1) == []
    assert start(holder, *rest, limit=2) == ["other"]
    planned = fair_schedule([holder, *rest], 2, NOW, aging=60)
    assert planned.after == {"same": "pod/p"}
