"""Whether each kind of fault hits its part, and whether the part serves afterward: one fault at a time.

    missed = prove(world, sorted(world.faults), print)

A kind that hits nothing is tried again, for longer, because its part may have had nothing to do meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

from tests.chaos import people
from tests.chaos.clock import RunClock
from tests.chaos.people import Cast, People
from tests.chaos.world import Effect, NothingToBreakError, World

_TRIES = (3.0, 8.0, 15.0)
"""Seconds that a fault lasts."""
_SECONDS_OF_A_KIND = 30.0
"""People have acts for so long, per kind."""
_PAUSE_SECONDS = 9.0
"""Between two applications of the label."""


def prove(world: World, kinds: Sequence[str], say: Callable[[str], None] = print) -> list[str]:
    """Try every kind while people use the system; a line for each try.

    Returns:
        The kinds that have hit nothing.

    Raises:
        WorldError: a part does not serve again.
    """
    missed = []
    with _people_act(world, _SECONDS_OF_A_KIND * len(kinds)):
        for kind in kinds:
            for number, seconds in enumerate(_TRIES, start=1):
                begin = time.monotonic()
                effect = _try(world, kind, number, seconds)
                took = time.monotonic() - begin
                verdict = "hit" if effect.count else "MISSED"
                say(f"{verdict:6} {kind}: {effect} ({seconds:.0f} s, whole after {took:.1f} s)")
                if effect.count:
                    break
            else:
                missed.append(kind)
    return missed


def _try(world: World, kind: str, number: int, seconds: float) -> Effect:
    try:
        end = world.faults[kind](Random(f"{kind} {number}"))
    except NothingToBreakError as error:
        return Effect(0, f"targets: {error}")
    threading.Event().wait(seconds)
    effect = end()
    world.check()
    return effect


@contextmanager
def _people_act(world: World, seconds: float) -> Iterator[None]:
    cast = Cast(world.repositories, world.people)
    acts = people.plan(1, seconds, round(seconds / _PAUSE_SECONDS), cast)
    clock = RunClock()
    actor = threading.Thread(target=People(world.forge, cast).run, args=(acts, clock), daemon=True)
    actor.start()
    try:
        yield
    finally:
        clock.stop()
        actor.join()
