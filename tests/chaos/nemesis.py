"""What is broken on purpose during a run: a plan drawn from a seed, and the loop that follows it.

    faults = plan(seed, seconds=180, kinds=sorted(world.faults), count=8)
    nemesis = Nemesis(world.faults, seed)
    nemesis.run(faults, clock)   # raises BrokenTestBed
    records = nemesis.records

The name is that of Jepsen's program that does the same (https://jepsen.io).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.clock import Clock
from tests.chaos.world import NothingToBreakError, StartFault

FAULTS_WITHIN = 0.85
"""The part of the run in which faults begin: what they leave behind shows while people still act."""
AT_ONCE = 2
"""Faults at a time. Of three, nobody could tell which one caused what."""
_PAIRED = 0.35
"""The part of the faults that begin while another one lasts."""
_SHORTEST, _LONGEST = 2.0, 20.0
"""Seconds that a fault lasts, until its end is asked for."""


@dataclass(frozen=True)
class PlannedFault:
    """A fault of the plan; times in seconds.

    Attributes:
        at: after the start of the run.
        seconds: from its start until its end is asked for.
    """

    id: int
    kind: str
    at: float
    seconds: float


class BrokenTestBed(Exception):
    """A fault could not begin or end: the run says nothing about the system. The message names the fault."""


def plan(seed: int, seconds: float, kinds: Sequence[str], count: int) -> list[PlannedFault]:
    """The faults in the order of their start, each kind before any of them a second time.

    At most two are planned at once, and never two of one kind.

    Raises:
        ValueError: there are faults, but no kinds.
    """
    random = Random(f"nemesis {seed}")
    order = _order(random, kinds, count)
    groups: list[list[str]] = []
    while order:
        pair = len(order) > 1 and order[0] != order[1] and random.random() < _PAIRED
        groups.append([order.popleft() for _ in range(2 if pair else 1)])
    slot = seconds * FAULTS_WITHIN / max(1, len(groups))
    planned: list[PlannedFault] = []
    for number, group in enumerate(groups):
        at = slot * number + random.uniform(0.0, 0.3 * slot)
        lasts = random.uniform(min(_SHORTEST, 0.3 * slot), min(_LONGEST, 0.6 * slot))
        for kind in group:
            planned.append(PlannedFault(len(planned) + 1, kind, round(at, 3), round(lasts, 3)))
            at, lasts = at + random.uniform(0.1, 0.9) * lasts, random.uniform(0.5, 1.0) * lasts
            lasts = min(lasts, slot * (number + 1) - at)
    return planned


def _order(random: Random, kinds: Sequence[str], count: int) -> deque[str]:
    """Every kind in a random order, then every kind again; two neighbors always differ if they can."""
    if count and not kinds:
        raise ValueError("there are no kinds of faults")
    order: deque[str] = deque()
    while len(order) < count:
        round_ = random.sample(sorted(kinds), len(kinds))
        if order and round_[0] == order[-1]:
            round_.append(round_.pop(0))
        order += round_
    return deque(list(order)[:count])


@dataclass
class Nemesis:
    """Starts and ends faults.

    Args:
        faults: by kind, a function that starts the fault and returns the function that ends it and returns
            what it has hit when the broken part serves again.

    Attributes:
        records: of the faults that have ended, and of those that had nothing to break, as `history.py` reads
            them.
        skipped: what the plan had left when the run ended.
    """

    faults: Mapping[str, StartFault]
    seed: int
    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[PlannedFault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, planned: Sequence[PlannedFault], clock: Clock) -> None:
        """Follow the plan; returns when every fault that began has ended.

        A fault whose predecessors take long to end begins later than planned. After the clock is stopped, no
        fault begins, and those that last end at once.

        Raises:
            BrokenTestBed: a fault could not begin or end; no further one began.
        """
        left = deque(sorted(planned, key=lambda fault: fault.at))
        locks = {fault.kind: threading.Lock() for fault in planned}
        broken = threading.Event()

        def follow() -> None:
            while True:
                with self._lock:
                    if not left:
                        return
                    fault = left.popleft()
                if broken.is_set() or not clock.wait_until(fault.at):
                    with self._lock:
                        self.skipped.append(fault)
                    continue
                try:
                    with locks[fault.kind]:
                        self._do(fault, clock)
                except BrokenTestBed:
                    broken.set()
                    raise

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="nemesis") as pool:
            followers = [pool.submit(follow) for _ in range(AT_ONCE)]
        errors = [str(error) for one in followers if (error := one.exception()) is not None]
        if errors:
            raise BrokenTestBed("; ".join(errors)) from next(
                filter(None, (one.exception() for one in followers))
            )

    def _do(self, fault: PlannedFault, clock: Clock) -> None:
        random = Random(f"fault {self.seed} {fault.id}")
        start = clock.now()
        try:
            end = self.faults[fault.kind](random)
        except NothingToBreakError as error:
            record = {"record": "missed fault", "id": fault.id, "kind": fault.kind}
            with self._lock:
                self.records.append({**record, "at": start.isoformat(), "why": str(error)})
            return
        except Exception as error:
            raise BrokenTestBed(f"fault {fault.id}, {fault.kind}, did not begin: {error!r}") from error
        clock.wait_until(clock.elapsed() + fault.seconds)
        asked = clock.now()
        try:
            effect = end()
        except Exception as error:
            raise BrokenTestBed(f"fault {fault.id}, {fault.kind}, did not end: {error!r}") from error
        record = {
            "record": "fault",
            "id": fault.id,
            "kind": fault.kind,
            "start": start.isoformat(),
            "asked": asked.isoformat(),
            "end": clock.now().isoformat(),
            "hit": effect.count > 0,
            "effect": str(effect),
        }
        with self._lock:
            self.records.append(record)
