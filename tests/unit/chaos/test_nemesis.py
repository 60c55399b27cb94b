"""The plan of the faults, and the loop that begins and ends them; nothing here waits."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest

from tests.chaos.clock import RunClock
from tests.chaos.nemesis import BrokenTestBed, Nemesis, PlannedFault, plan
from tests.chaos.world import Effect, NothingToBreakError, StartFault, Undo

KINDS = [
    f"kill {name}" for name in ("receiver", "operator", "reporter", "broker", "kubelet", "etcd", "agent")
]
START = datetime(2026, 1, 2, 12, tzinfo=UTC)
SEEDS = range(20)


@dataclass
class PassedClock:
    """A clock whose waits end at once; from `stopped_at` on, the run is to end."""

    stopped_at: float = float("inf")
    at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed())

    def elapsed(self) -> float:
        with self.lock:
            return self.at

    def wait_until(self, at: float) -> bool:
        with self.lock:
            self.at = max(self.at, min(at, self.stopped_at))
            return at < self.stopped_at


@dataclass
class Parts:
    """Counts what is broken; `draws` has what each fault drew."""

    active: Counter[str] = field(default_factory=Counter)
    most: int = 0
    draws: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, kind: str) -> StartFault:
        def end() -> Effect:
            with self.lock:
                self.active[kind] -= 1
            return Effect(2, "processes")

        def start(random: Random) -> Undo:
            with self.lock:
                self.draws.append(random.random())
                self.active[kind] += 1
                assert self.active[kind] == 1, f"{kind} twice at once"
                self.most = max(self.most, self.active.total())
            return end

        return start


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [0, 1, 8, 70])
def test_kinds_are_used_evenly_and_at_most_two_at_once(seed: int, count: int) -> None:
    seconds = 1800.0
    faults = plan(seed, seconds, KINDS, count)
    assert faults == plan(seed, seconds, KINDS, count)
    assert [fault.id for fault in faults] == list(range(1, count + 1))
    used = Counter(fault.kind for fault in faults)
    assert {used[kind] for kind in KINDS} <= {count // len(KINDS), -(-count // len(KINDS))}
    assert all(0 <= fault.at <= 0.85 * seconds and 0 < fault.seconds <= 20 for fault in faults)
    assert all(before.at <= after.at for before, after in pairwise(faults))
    for fault in faults:
        others = [one for one in faults if one is not fault and one.at <= fault.at < one.at + one.seconds]
        assert len(others) <= 1
        assert all(one.kind != fault.kind for one in others)


def test_some_faults_overlap() -> None:
    faults = plan(1, 1800.0, KINDS, 70)
    overlaps = sum(after.at < before.at + before.seconds for before, after in pairwise(faults))
    assert 5 <= overlaps <= 35


def test_a_plan_without_kinds_has_no_faults() -> None:
    assert not plan(1, 60.0, [], 0)
    with pytest.raises(ValueError, match="no kinds"):
        plan(1, 60.0, [], 1)


def test_every_fault_begins_and_ends_and_is_recorded() -> None:
    parts = Parts()
    nemesis = Nemesis({kind: parts.fault(kind) for kind in KINDS}, seed=3)
    faults = plan(3, 600.0, KINDS, 21)
    nemesis.run(faults, PassedClock())
    assert {record["id"]: record["kind"] for record in nemesis.records} == {
        fault.id: fault.kind for fault in faults
    }
    assert not parts.active.total()
    assert parts.most <= 2
    for record in nemesis.records:
        start, asked, end = (datetime.fromisoformat(record[name]) for name in ("start", "asked", "end"))
        assert start < asked <= end


def test_what_a_fault_draws_depends_only_on_the_seed_and_its_number() -> None:
    drawn = []
    for _ in range(2):
        parts = Parts()
        Nemesis({kind: parts.fault(kind) for kind in KINDS}, seed=3).run(
            plan(3, 600.0, KINDS, 14), PassedClock()
        )
        drawn.append(sorted(parts.draws))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 14


def test_a_kind_that_lasts_longer_than_planned_does_not_begin_again_before_its_end() -> None:
    parts = Parts()
    faults = [PlannedFault(number, "kill etcd", 0.0, 5.0) for number in (1, 2, 3)]
    nemesis = Nemesis({"kill etcd": parts.fault("kill etcd")}, seed=1)
    nemesis.run(faults, PassedClock())
    assert len(nemesis.records) == 3


def test_what_each_fault_has_hit_is_recorded() -> None:
    def hits_nothing(_: Random) -> Undo:
        return lambda: Effect(0, "requests")

    def has_no_target(_: Random) -> Undo:
        raise NothingToBreakError("no attempt works")

    kinds = {"kill etcd": Parts().fault("kill etcd"), "slow": hits_nothing, "kill agent": has_no_target}
    nemesis = Nemesis(kinds, seed=1)
    nemesis.run([PlannedFault(number, kind, 0.0, 1.0) for number, kind in enumerate(kinds, 1)], PassedClock())
    found = {one["id"]: one for one in nemesis.records}
    assert (found[1]["hit"], found[1]["effect"]) == (True, "2 processes")
    assert (found[2]["hit"], found[2]["effect"]) == (False, "0 requests")
    assert (found[3]["record"], found[3]["why"]) == ("missed fault", "no attempt works")


def fails(random: Random) -> Undo:
    raise RuntimeError("no such process")


def never_serves(random: Random) -> Undo:
    def end() -> Effect:
        raise TimeoutError("the operator does not serve")

    return end


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (fails, r"fault 2, kill operator, did not begin: RuntimeError\('no such process'\)"),
        (never_serves, r"fault 2, kill operator, did not end: TimeoutError\('the operator does not serve'\)"),
    ],
)
def test_a_fault_that_cannot_begin_or_end_breaks_the_test_bed(broken: StartFault, said: str) -> None:
    parts = Parts()
    nemesis = Nemesis({"kill receiver": parts.fault("kill receiver"), "kill operator": broken}, seed=1)
    kinds = ["kill receiver", "kill operator", *["kill receiver"] * 30]
    faults = [PlannedFault(number, kind, 10.0 * number, 5.0) for number, kind in enumerate(kinds, start=1)]
    with pytest.raises(BrokenTestBed, match=said):
        nemesis.run(faults, PassedClock())
    assert not parts.active.total(), "the other faults have ended"
    assert len(nemesis.records) + len(nemesis.skipped) == len(faults) - 1


def test_when_the_run_ends_early_nothing_begins_and_all_that_lasts_ends() -> None:
    parts = Parts()
    nemesis = Nemesis({kind: parts.fault(kind) for kind in KINDS}, seed=1)
    faults = [PlannedFault(1, KINDS[0], 1.0, 500.0), PlannedFault(2, KINDS[1], 200.0, 5.0)]
    nemesis.run(faults, PassedClock(stopped_at=100.0))
    assert [record["id"] for record in nemesis.records] == [1]
    assert [fault.id for fault in nemesis.skipped] == [2]
    assert not parts.active.total()


def test_a_stopped_clock_ends_every_wait() -> None:
    clock = RunClock()
    assert clock.wait_until(0.0)
    clock.stop()
    assert not clock.wait_until(10_000.0)
