"""`make bench` runs: every benchmark without a node, briefly, with the real parts. No figure is judged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.bench.__main__ import USUAL

# Of one run, and its end.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[3]
_SECONDS = 500
"""A quarter of a minute where the machine has nothing else to do."""


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coding_agent_testbed.bench", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # not a kill: it ends what it has started
            stdout, stderr = process.communicate(timeout=60)
            pytest.fail(f"did not end within {_SECONDS} s:\n{stdout}{stderr}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def test_every_benchmark_gives_figures_and_those_of_a_quick_run_are_not_published(tmp_path: Path) -> None:
    file, page = tmp_path / "figures.json", ROOT / "docs" / "operations" / "performance.md"
    before = page.read_bytes()
    done = bench("--quick", "--publish", "--json", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not published" in done.stderr
    assert page.read_bytes() == before
    figures = json.loads(file.read_text())
    assert figures["quick"] is True
    assert figures["machine"]["cores"] >= 1
    assert list(figures["benchmarks"]) == list(USUAL)
    for benchmark in figures["benchmarks"].values():
        assert 0 <= benchmark["others"] <= 1
        assert benchmark["title"].split(",")[0] in done.stdout
        check_cases(benchmark["cases"])


def check_cases(cases: list[dict[str, Any]]) -> None:
    base, *others = cases
    assert base["ratios"] == {}
    assert base["values"]
    for case in others:
        assert case["ratios"].keys() <= case["values"].keys()
        assert all(value >= 0 for value in case["values"].values())
    assert any(case["ratios"] for case in others)
