"""Ratios, medians and percentiles, and how they are shown."""

from __future__ import annotations

import pytest
from coding_agent_bench.benchmark import Benchmark
from coding_agent_bench.result import Case, Measure, Result, median_case, percentile
from coding_agent_bench.show import as_json

MS, ERRORS = Measure("ms", "time (ms)"), Measure("errors", "errors", 0)
RESULT = Result(
    (MS, ERRORS), (Case("alone", {"ms": 2.0, "errors": 0}), Case("many", {"ms": 5.0, "errors": 3}))
)


async def _run(_: object) -> Result:
    return RESULT


BENCHMARK = Benchmark("demo", "What is compared", frozenset(), 1.0, _run)


def test_a_ratio_is_to_the_first_case_and_there_is_none_to_nothing() -> None:
    share = Measure("cpu", "CPU", of="ms")
    result = Result((share,), (Case("base", {"ms": 4.0}), Case("other", {"cpu": 1.0}), Case("none", {})))
    base, other, none = result.cases
    assert result.ratio(other, share) == 0.25
    assert result.ratio(base, share) is None
    assert result.ratio(none, share) is None


def test_the_median_of_rounds_is_taken_value_by_value() -> None:
    rounds = [{"a": 1.0, "b": 9.0}, {"a": 100.0, "b": 8.0}, {"a": 2.0, "b": 7.0}]
    assert median_case("x", rounds) == Case("x", {"a": 2.0, "b": 8.0})


@pytest.mark.parametrize(
    ("values", "percent", "is_"),
    [
        ([5.0], 50, 5.0),
        ([5.0], 99, 5.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 50, 50.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 1001)], 99, 990.0),
        ([1.0, 2.0], 1, 1.0),
    ],
)
def test_percentiles(values: list[float], percent: float, is_: float) -> None:
    assert percentile(values, percent) == is_


def test_the_data_have_values_and_ratios() -> None:
    assert as_json(BENCHMARK, RESULT, 1.26, 0.0512) == {
        "title": "What is compared",
        "seconds": 1.3,
        "others": 0.051,
        "cases": [
            {"name": "alone", "values": {"ms": 2.0, "errors": 0}, "ratios": {}},
            {"name": "many", "values": {"ms": 5.0, "errors": 3}, "ratios": {"ms": 2.5}},
        ],
    }
