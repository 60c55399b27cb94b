"""One run: people act, parts break, everything is made whole again, and the records are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos import nemesis, people
from tests.chaos.change_acts import CHANGE_KINDS
from tests.chaos.clock import RunClock
from tests.chaos.judging import write_run
from tests.chaos.nemesis import Nemesis, PlannedFault
from tests.chaos.people import Act, Cast, People
from tests.chaos.report import Setup
from tests.chaos.world import World, WorldError

_CHECK_SECONDS = 2.0
_QUIET_SECONDS = 3.0
"""The forge's times are whole seconds."""


@dataclass(frozen=True)
class Schedule:
    """What people do and what breaks, chosen for one purpose and not drawn from a seed."""

    acts: Sequence[Act]
    faults: Sequence[PlannedFault] = ()

    @property
    def seconds(self) -> float:
        """From the start until the last act is due, and the end of the last fault."""
        ends = [*(act.at for act in self.acts), *(fault.at + fault.seconds for fault in self.faults)]
        return max(ends)


@dataclass(frozen=True)
class Plan:
    """What a run is to be.

    Attributes:
        seconds: how long people act.
        applications: how often a label is applied at least.
        faults: how many; 0: races only.
        settle: seconds of rest at the end; `None`: as the world promises.
        drain: seconds after the last act and fault within which all work ends. What is left then is stuck.
        schedule: what happens; `None`: it is drawn from the seed.
        defect: what is planted in the product, for the report; empty: nothing.
    """

    seed: int
    mode: str
    forge: str
    seconds: float
    applications: int
    faults: int
    settle: float | None = None
    drain: float = 420.0
    schedule: Schedule | None = None
    defect: str = ""

    @staticmethod
    def of(
        schedule: Schedule, seed: int, mode: str, forge: str, *, settle: float, drain: float, defect: str
    ) -> Plan:
        """A run of a schedule; the seed decides what its faults draw."""
        applications = sum(people.KINDS[act.kind].steps[act.step].applies for act in schedule.acts)
        faults = len(schedule.faults)
        seconds = schedule.seconds
        return Plan(seed, mode, forge, seconds, applications, faults, settle, drain, schedule, defect)

    def chosen(self, cast: Cast, kinds: Sequence[str]) -> Schedule:
        """What happens in a world with these people and these kinds of faults."""
        if self.schedule is not None:
            return self.schedule
        acts = people.plan(self.seed, self.seconds, self.applications, cast)
        faults = nemesis.plan(self.seed, self.seconds, kinds, self.faults) if self.faults else []
        return Schedule(acts, faults)


def plan_for(seed: int, minutes: float, mode: str, forge: str, *, faults: bool) -> Plan:
    """A plan that two cores bear: an attempt costs them some five seconds, and so does each round."""
    planned = max(1, round(2.4 * minutes)) if faults else 0
    each_minute = 2.4 if mode == "kubernetes" else 3.6
    return Plan(seed, mode, forge, minutes * 60, max(1, round(each_minute * minutes)), planned)


def run(world: World, plan: Plan, folder: Path, say: Callable[[str], None] = print) -> Setup:
    """Run it, and write the records, the setup and the logs to the folder.

    A part that fails by itself, or does not come back, ends the run early: `Setup.broken` says why.
    """
    promises = world.promises()
    if plan.settle is not None:
        promises = replace(promises, settle=plan.settle)
    more = CHANGE_KINDS if promises.rounds is not None else {}
    cast = Cast(world.repositories, world.people, more_kinds=more)
    crowd = People(world.forge, cast)
    breaker = Nemesis(world.faults, plan.seed)
    chosen = plan.chosen(cast, sorted(world.faults))
    acts, faults = chosen.acts, chosen.faults
    clock, started = RunClock(), datetime.now(UTC)
    say(f"{len(acts)} acts and {len(faults)} faults in {plan.seconds:.0f} s")
    broken: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_CHECK_SECONDS):
            try:
                world.check()
            except WorldError as error:
                broken.append(str(error))
                clock.stop()
                return

    with ThreadPoolExecutor(4, thread_name_prefix="run") as pool:
        parts = [
            pool.submit(crowd.run, acts, clock, plan.seconds + people.WAIT_SECONDS),
            pool.submit(breaker.run, faults, clock),
        ]
        watchdog = pool.submit(watch)
        checks = pool.submit(crowd.ci.run, over)
        try:
            for part in parts:
                if (error := part.exception()) is not None:
                    broken.append(str(error))
                    clock.stop()
            if not broken:
                # Long enough that a poll finds what no webhook has brought.
                rest = max(promises.settle, promises.start + promises.poll) + _QUIET_SECONDS
                _rest(world, rest, plan.drain, lambda: bool(broken), say)
        finally:
            over.set()
        watchdog.result()
        checks.result()
    for fault in breaker.records:
        if fault["record"] == "missed fault":
            say(f"fault {fault['id']}, {fault['kind']}, had nothing to break: {fault['why']}")
        elif not fault["hit"]:
            say(f"fault {fault['id']}, {fault['kind']}, hit nothing: {fault['effect']}")
    setup = Setup(
        seed=plan.seed,
        seconds=plan.seconds,
        mode=plan.mode,
        forge=plan.forge,
        applications=plan.applications,
        faults=plan.faults,
        started=started,
        ended=datetime.now(UTC),
        promises=promises,
        description={**world.description(), **({"planted defect": plan.defect} if plan.defect else {})},
        broken="; ".join(broken),
    )
    write_run(folder, setup, [*world.records(), *breaker.records, *crowd.performed])
    world.logs(folder / "logs")
    return setup


def _rest(
    world: World, settle: float, drain: float, broken: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Wait until nothing is left to do, and then for `settle` seconds; not longer than `drain` seconds."""
    end = time.monotonic() + drain
    quiet_since = time.monotonic()
    while time.monotonic() < end and not broken():
        if not world.idle():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= settle:
            return
        threading.Event().wait(0.5)
    say(f"not at rest {drain:.0f} s after the last act and fault")
