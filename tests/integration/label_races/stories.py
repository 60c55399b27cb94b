"""What a person does with the label of each item, within seconds. Pure and seeded."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Act(StrEnum):
    """What a person does with an item."""

    LABEL = "label"
    UNLABEL = "unlabel"
    CLOSE = "close"


_SEQUENCES: dict[tuple[Act, ...], int] = {
    (Act.LABEL,): 3,
    (Act.LABEL, Act.UNLABEL): 4,
    (Act.LABEL, Act.UNLABEL, Act.LABEL): 6,
    (Act.LABEL, Act.UNLABEL, Act.LABEL, Act.UNLABEL): 3,
    (Act.LABEL, Act.UNLABEL, Act.LABEL, Act.UNLABEL, Act.LABEL): 3,
    (Act.LABEL, Act.CLOSE): 2,
    (Act.LABEL, Act.UNLABEL, Act.LABEL, Act.CLOSE): 1,
}
"""What happens to an item, and how often among all items."""
_GAPS = (0.0, 0.05, 0.3, 0.8, 1.5, 2.5, 4.0)
"""Seconds between two acts: within one second of the forge's clock, and on both sides of a late delivery."""
_START = 4.0
"""Seconds within which the first act on each item happens."""


@dataclass(frozen=True)
class Step:
    """An act, so many seconds after the start."""

    at: float
    act: Act


@dataclass(frozen=True)
class Story:
    """What happens to one item.

    Attributes:
        free: the work may end at any moment. Else it ends only after the last act of the round, so that
            exactly one run can have ended with success, and no work of a withdrawn label.
        rounds: the second, if there is one, begins when the item has shown the end of the first.
    """

    free: bool
    rounds: tuple[tuple[Step, ...], ...]

    def __str__(self) -> str:
        rounds = (", ".join(f"{step.act} at {step.at:.2f}" for step in steps) for steps in self.rounds)
        return f"{'free' if self.free else 'held'}: {'; then '.join(rounds)}"


def stories(seed: int, count: int) -> list[Story]:
    """The stories of so many items: every sequence of acts is among them as often as the seed says."""
    random = Random(seed)
    made: list[Story] = []
    for _ in range(count):
        first = _round(random)
        again = first[-1].act is Act.LABEL and random.random() < 0.4
        made.append(Story(random.random() < 0.4, (first, _round(random)) if again else (first,)))
    return made


def _round(random: Random) -> tuple[Step, ...]:
    [acts] = random.choices(list(_SEQUENCES), weights=list(_SEQUENCES.values()))
    at = random.uniform(0.0, _START)
    steps: list[Step] = []
    for act in acts:
        steps.append(Step(at, act))
        at += random.choice(_GAPS)
    return tuple(steps)
