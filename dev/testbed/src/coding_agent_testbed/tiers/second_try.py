"""Run pytest, then each failed test once more, alone (``python -m coding_agent_testbed.tiers.second_try``).

A test with servers of its own can fail because the machine stood still for a moment. Run again in the same
worker, it would meet the same servers beside the same load; in a process of its own it gets fresh ones. What
passes then is printed as FLAKY and recorded in ``.cache/reports/flakes.tsv``: each line is a test's defect.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from coding_agent_testbed.tiers.failures import Failures

MOST_TESTS = 5
"""More failed tests than this are not chance: none of them is tried again."""
MOST_SECONDS = 360
"""For all second tries together."""
FLAKES = Path(".cache/reports/flakes.tsv")
TESTS_FAILED = 1
"""pytest's exit status if tests failed. The others (2 interrupted, 3 internal error, 4 usage, 5 nothing
collected) are final (https://docs.pytest.org/en/stable/reference/exit-codes.html)."""


def run(arguments: Sequence[str], *, most_tests: int = MOST_TESTS, most_seconds: float = MOST_SECONDS) -> int:
    """Run pytest with these arguments, and what failed once more; pytest's exit status.

    Args:
        arguments: pytest's.
        most_tests: with more failed tests than this, none is tried again.
        most_seconds: for all second tries together.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "failures"
        status = _pytest(["-p", "coding_agent_testbed.tiers.failures", f"--failures={file}", *arguments])
        if status != TESTS_FAILED:
            return status
        failures = Failures.read(file)
    if failures.not_collected or not failures.tests:
        return status
    if len(failures.tests) > most_tests:
        print(f"{len(failures.tests)} tests failed. Up to {most_tests} would be tried again.", flush=True)
        return status
    return _try_again(failures.tests, time.monotonic() + most_seconds)


def _try_again(tests: Sequence[str], deadline: float) -> int:
    """Run each test alone. What fails is printed last, so that pytest's last line says so."""
    failed = []
    for test in tests:
        print(f"\nSecond try of {test}", flush=True)
        passed, printed = _run_alone(test, deadline - time.monotonic())
        if passed:
            _record(test)
            *before, summary = printed.rstrip().splitlines() or [""]
            print("\n".join([*before, f"FLAKY {test}: it failed, and passed alone.", summary]), flush=True)
        else:
            failed.append(printed.rstrip())
    for printed in failed:
        print(printed, flush=True)
    return TESTS_FAILED if failed else 0


def _run_alone(test: str, seconds: float) -> tuple[bool, str]:
    """Whether a test passes in a process of its own, and what pytest printed."""
    if seconds <= 0:
        return False, f"{test} was not tried again: {MOST_SECONDS} s for second tries are over."
    with tempfile.TemporaryDirectory() as folder:
        # In a file, an id is one argument whatever it contains.
        test_file = Path(folder) / "test"
        test_file.write_text(f"{test}\n", encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"@{test_file}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            printed = (expired.stdout or b"").decode(errors="replace")  # bytes, whatever `text` says
            return False, f"{printed}\n{test} did not end within {MOST_SECONDS} s for all second tries."
    return done.returncode == 0, done.stdout


def _record(test: str) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=60, check=False
    )
    FLAKES.parent.mkdir(parents=True, exist_ok=True)
    line = (datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), commit.stdout.strip() or "unknown", test)
    with FLAKES.open("a", encoding="utf-8") as file:
        file.write("\t".join(line) + "\n")


def _pytest(arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
