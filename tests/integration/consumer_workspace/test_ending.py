"""The end of a command's processes, by the one who must not end before them."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

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
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        child, _ = program.communicate(timeout=60)
        assert program.returncode == 3
        assert not Path("/proc", child.strip()).exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
