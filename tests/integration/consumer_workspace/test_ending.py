"""The end of a command's processes, by the one who must not end before them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fixtures.system import until

SCRIPT = """
import os, signal, subprocess, sys
from coding_agent_consumer.workspace import linux, processes

linux.adopt_orphans()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
child = subprocess.Popen(["sleep", "4711"])
print(child.pid, flush=True)
kill = os.kill

def stopped_at_the_worst_moment(pid, number):
    kill(pid, number)
    if number == signal.SIGSTOP:
        kill(os.getpid(), signal.SIGTERM)

os.kill = stopped_at_the_worst_moment
processes.end_descendants()
"""


def test_a_signal_to_us_does_not_leave_behind_who_was_only_stopped_yet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    child = Path("/proc", done.stdout.strip())
    assert done.returncode == 3, done.stderr
    try:
        assert not child.exists()
    finally:
        subprocess.run(["kill", "-9", child.name], stderr=subprocess.DEVNULL, check=False)
        until(lambda: not child.exists(), "the child is gone")
