"""One run: people act, parts break, everything is made whole again, and the records are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos import nemesis, people
from tests.chaos.change_acts import CHANGE_KINDS
from tests.chaos.clock import RunClock
from tests.chaos.judging import write_run
from tests.chaos.nemesis import Nemesis
from tests.chaos.people import Cast, People
from tests.chaos.report import Setup
from tests.chaos.world import World, WorldError

_CHECK_SECONDS = 2.0
_DRAIN_SECONDS = 420.0
"""Within it all work ends after the last act and fault: what is left then is stuck."""
_QUIET_SECONDS = 3.0
"""The forge's times are whole seconds."""


@dataclass(frozen=True)
class Plan:
    """What a run is to be.

    Attributes:
        seconds: how long people act.
        applications: how often a label is applied at least.
        faults: how many; 0: races only.
        settle: seconds of rest at the end; `None`: as the world promises.
    """

    seed: int
    mode: str
    forge: str
    seconds: float
    applications: int
    faults: int
    settle: float | None = None


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
    clock, started = RunClock(), datetime.now(UTC)
    more = CHANGE_KINDS if promises.rounds is not None else {}
    cast = Cast(world.repositories, world.people, more_kinds=more)
    crowd = People(world.forge, cast)
    acts = people.plan(plan.seed, plan.seconds, plan.applications, cast)
    breaker = Nemesis(world.faults, plan.seed)
    kinds = sorted(world.faults)
    faults = nemesis.plan(plan.seed, plan.seconds, kinds, plan.faults) if plan.faults else []
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
                _rest(world, promises.settle + _QUIET_SECONDS, lambda: bool(broken), say)
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
        description=world.description(),
        broken="; ".join(broken),
    )
    write_run(folder, setup, [*world.records(), *breaker.records, *crowd.performed])
    world.logs(folder / "logs")
    return setup


def _rest(world: World, settle: float, broken: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Wait until nothing is left to do, and then for `settle` seconds; not longer than the deadline."""
    end = time.monotonic() + _DRAIN_SECONDS
    quiet_since = time.monotonic()
    while time.monotonic() < end and not broken():
        if not world.idle():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= settle:
            return
        threading.Event().wait(0.5)
    say(f"not at rest {_DRAIN_SECONDS:.0f} s after the last act and fault")
