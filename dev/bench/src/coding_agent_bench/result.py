"""What a benchmark finds: cases side by side, the first of them the base that the others are held against."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        key: its name in the JSON file.
        heading: its name in the table, the unit in it.
        digits: after the point, in the table.
    """

    key: str
    heading: str
    digits: int = 1


@dataclass(frozen=True)
class Case:
    """One case: a value for each measure, by its key."""

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """Cases of one benchmark, all measured in the same run."""

    measures: tuple[Measure, ...]
    cases: tuple[Case, ...]

    def ratio(self, case: Case, measure: Measure) -> float | None:
        """The case's value as a multiple of the base's; `None` for the base, or where that is zero."""
        base = self.cases[0]
        if case is base or not base.values[measure.key]:
            return None
        return case.values[measure.key] / base.values[measure.key]


def median_case(name: str, rounds: Sequence[Mapping[str, float]]) -> Case:
    """The median of each value over rounds that took turns with those of the other cases."""
    return Case(name, {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]})


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]
