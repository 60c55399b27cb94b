"""Run tests ten times on a busy machine: ``python -m coding_agent_testbed.tiers.stress TESTS``.

What passes alone and on a quiet machine, and fails here, reads something too early or counts on a clock.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TIMES = 10
WORKERS = 4
SECONDS = 180
"""For all runs of all tests. What was not run by then is not run."""
LAST_SECONDS = 60
"""For the end of the tests that run then."""
INTERRUPTED = 2
"""pytest's exit status after a signal."""
BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    pass
"""
"""Computes until its standard input is closed, so it does not outlive the one who started it."""


def changed_tests(base: str = "origin/main") -> list[str]:
    """The files of tests that differ from a branch, also those that are not committed.

    Raises:
        SystemExit: there is no such branch.
    """
    merge_base = _git("merge-base", base, "HEAD")
    if merge_base is None:
        sys.exit(f"There is no {base} to compare with: name the tests in TESTS.")
    changed = _git("diff", "--name-only", "--diff-filter=d", merge_base.strip(), "--", "tests") or ""
    new = _git("ls-files", "--others", "--exclude-standard", "--", "tests") or ""
    files = {Path(line) for line in (changed + new).splitlines()}
    return sorted(str(file) for file in files if file.match("test_*.py"))


def run(tests: Sequence[str], *, seconds: float = SECONDS, busy: int | None = None) -> int:
    """Run tests, each ten times; 0 if none failed.

    Args:
        tests: arguments of pytest.
        seconds: after that long, no further test begins.
        busy: how many processes compute beside them; one for each core unless told.
    """
    with tempfile.TemporaryDirectory() as folder, _busy(busy or os.cpu_count() or 1):
        file = Path(folder) / "failures"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), "-m", "not needs_node"]
        command += ["--count", str(TIMES), "--repeat-scope", "session", "-p", "no:cacheprovider"]
        command += ["-p", "coding_agent_testbed.tiers.failures", f"--failures={file}", *tests]
        status, in_time = _within(command, seconds)
        failed = json.loads(file.read_text(encoding="utf-8"))["tests"] if file.exists() else []
    if not in_time:
        print(f"Not all {TIMES} runs of each test ended within {seconds:.0f} s.", flush=True)
        status = status if failed or status != INTERRUPTED else 0
    for test, count in Counter(test.rsplit("[", 1)[0] for test in failed).items():
        print(f"RED {count} times: {test}", flush=True)
    return status


@contextmanager
def _busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _within(command: Sequence[str], seconds: float) -> tuple[int, bool]:
    """Exit status of pytest, and whether it ended by itself. Interrupted, it says what had failed."""
    process = subprocess.Popen(command)
    try:
        return process.wait(seconds), True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(LAST_SECONDS), False
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(), False


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


def main(arguments: Sequence[str]) -> int:
    """Run the tests that are named, or those that were changed."""
    tests = list(arguments) or changed_tests()
    if not tests:
        print("No test differs from origin/main. TESTS names others.")
        return 0
    return run(tests)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
