"""What the lint for tests finds that a busy machine would turn red."""

from __future__ import annotations

from pathlib import Path

import pytest
from coding_agent_testbed.tiers.clocks import findings, main

BOUND = "an upper bound on a clock"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("assert time.monotonic() - began < 30", BOUND),
        ("assert 30 > time.monotonic() - began", BOUND),
        ("took = time.perf_counter() - began\n    assert took <= 3", BOUND),
        ("assert began <= datetime.now(UTC) < later", BOUND),
        ("assert process_time() - began < 5", BOUND),
        ("assert time.monotonic() - began > 3", ""),
        ("assert len(sent) < 3", ""),
        ("assert clock.now() - began < 3", ""),
        ("assert clock.time() < 3", ""),
        ("client(timeout=2)", "timeout is below 5 s"),
        ("settings({'lease_duration': 3})", "lease_duration is below 5 s"),
        ("HEARTBEAT = 1.5", "HEARTBEAT is below 5 s"),
        ("grace: float = 0.3", "grace is below 5 s"),
        ("client(timeout=2)  # meant to expire", ""),
        ("client(timeout=5)", ""),
        ("client(timeout=0)", ""),
        ("client(interval=0.2, timeout=None, grace=True)", ""),
        ("time.sleep(1)", "a sleep"),
        ("await asyncio.sleep(pause)", "a sleep"),
        ("await asyncio.sleep(0)", ""),
        ("time.sleep(1)  # not a wait: the pace of a slow sender", ""),
        ("world.sleep(5)", ""),
    ],
)
def test_a_line_is_found_or_not(body: str, said: str) -> None:
    found = findings(f"async def test_it():\n    began = 0\n    {body}\n")
    assert [finding.text.startswith(said) for finding in found] == ([True] if said else []), found


def test_a_long_test_may_look_at_a_clock() -> None:
    assert not findings("@pytest.mark.long\ndef test_it():\n    assert time.monotonic() - began < 30\n")


def test_a_finding_is_red_and_so_is_a_folder_without_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test_it.py"
    assert main([str(tmp_path)]) == 1
    file.write_text("x = 1\n")
    assert main([str(tmp_path)]) == 0
    file.write_text("import time\ntime.sleep(1)\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f"{file}:2: a sleep")
