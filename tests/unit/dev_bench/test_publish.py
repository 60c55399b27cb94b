"""Figures get onto the page of performance, but not those of a busy machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from coding_agent_bench import machine
from coding_agent_bench.__main__ import BENCHMARKS
from coding_agent_bench.errors import BenchError
from coding_agent_bench.machine import Watched
from coding_agent_bench.publish import PAGE, require_quiet

ROOT = Path(__file__).parents[3]


def test_figures_of_a_busy_machine_are_refused() -> None:
    require_quiet({"receiver": 0.10, "operator": 0.02}, quick=False)
    with pytest.raises(BenchError, match=r"more than 10% of the machine \(receiver 34%\)"):
        require_quiet({"receiver": 0.34, "operator": 0.02}, quick=False)
    with pytest.raises(BenchError, match="quick run"):
        require_quiet({}, quick=True)


def test_the_page_has_a_place_for_each_benchmark() -> None:
    page = (ROOT / "docs" / "operations" / PAGE).read_text()
    for name in BENCHMARKS:
        assert page.count(f"<!-- figures: {name} -->\n") == 1
    assert page.count("\n<!-- end -->\n") == len(BENCHMARKS)


def test_what_is_not_our_own_is_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy, own = [100.0, 110.0], [50.0, 58.0], [5.0, 8.0]
    monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: clock.pop(0)))
    monkeypatch.setattr(machine, "busy_seconds", lambda: busy.pop(0))
    monkeypatch.setattr(machine, "own_seconds", lambda: own.pop(0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Watched().others() == 0.25
