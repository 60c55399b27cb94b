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
        of: key of the base's value that ratios are to; its own by default.
    """

    key: str
    heading: str
    digits: int = 1
    of: str = ""


@dataclass(frozen=True)
class Case:
    """One case: values by the keys of their measures, as far as they apply to it."""

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """Cases of one benchmark, all measured in the same run."""

    measures: tuple[Measure, ...]
    cases: tuple[Case, ...]

    def ratio(self, case: Case, measure: Measure) -> float | None:
        """The case's value as a multiple of the base's; `None` for the base, or without one of the two."""
        value, base = case.values.get(measure.key), self.cases[0].values.get(measure.of or measure.key)
        if case is self.cases[0] or value is None or not base:
            return None
        return value / base


def median_case(name: str, rounds: Sequence[Mapping[str, float]]) -> Case:
    """The median of each value over rounds that took turns with those of the other cases."""
    return Case(name, {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]})


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]
