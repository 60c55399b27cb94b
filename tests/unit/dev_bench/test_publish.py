"""Figures get onto the page of performance, but not those of a busy machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from coding_agent_bench import machine
from coding_agent_bench.__main__ import BENCHMARKS
from coding_agent_bench.benchmark import Benchmark
from coding_agent_bench.errors import BenchError
from coding_agent_bench.machine import Watched
from coding_agent_bench.publish import PAGE, publish, require_quiet
from coding_agent_bench.result import Case, Measure, Result

ROOT = Path(__file__).parents[3]
MACHINE = {"cores": 2, "system": "Linux x86_64", "python": "3.13.0"}
CPU, PLANE = Measure("cpu_ms", "program CPU (ms)", 2, of="plane_ms"), Measure("plane_ms", "plane CPU (ms)", 1)
RESULT = Result(
    (CPU, PLANE),
    (
        Case("directly", {"plane_ms": 4.0}),
        Case("a receiver", {"cpu_ms": 1.0, "plane_ms": 5.0}),
        Case("refused <1>", {"cpu_ms": 0.1}),
    ),
)


async def _run(_: object) -> Result:
    return RESULT


DEMO = Benchmark("demo", "What is compared", frozenset(), 1.0, _run)


def test_the_table_has_the_ratios_first_and_a_plot(tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text("# P\n\n<!-- figures: demo -->\n\nold\n\n<!-- end -->\n\nmore\n")
    publish(tmp_path, {"demo": (DEMO, RESULT, 0.04)}, MACHINE)
    page = (tmp_path / PAGE).read_text()
    assert "| directly |  | 4.0 |" in page
    assert "| a receiver | **×0.25** (1.00) | **×1.25** (5.0) |" in page
    assert "| refused <1> | **×0.03** (0.10) |  |" in page
    assert "2 cores (Linux x86_64), Python 3.13.0. Other processes took 4% of the machine." in page
    assert page.startswith("# P\n\n<!-- figures: demo -->\n\n|")
    assert page.endswith("\n\n<!-- end -->\n\nmore\n")
    assert "old" not in page
    assert "(performance-demo.svg)" in page
    assert "×1.25" in (tmp_path / "performance-demo.svg").read_text()
    publish(tmp_path, {"demo": (DEMO, RESULT, 0.04)}, MACHINE)
    assert (tmp_path / PAGE).read_text() == page


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


def test_the_processor_time_of_descendants_is_our_own() -> None:
    before = machine.own_seconds()
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    again = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}], check=True)"
    subprocess.run([sys.executable, "-c", again], check=True, timeout=60)
    assert machine.own_seconds() - before >= 0.5


def test_what_is_not_our_own_is_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy, own = [100.0, 110.0], [50.0, 58.0], [5.0, 8.0]
    monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: clock.pop(0)))
    monkeypatch.setattr(machine, "busy_seconds", lambda: busy.pop(0))
    monkeypatch.setattr(machine, "own_seconds", lambda: own.pop(0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Watched().others() == 0.25
