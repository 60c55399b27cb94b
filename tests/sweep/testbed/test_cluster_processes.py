"""Processes of a cluster are found again and signalled with what started them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from coding_agent_testbed.cluster.processes import Processes
from coding_agent_testbed.until import until


@pytest.mark.needs_linux
def test_a_process_that_was_stopped_continues_with_what_started_it(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    processes.start("sleeper", ["sleep", "600"], enter=["unshare", "--fork"])
    pid = processes.pid("sleeper")
    [parent] = [line.split()[1] for line in _status(pid) if line.startswith("PPid:")]
    both = (pid, int(parent))
    for _ in range(5):  # the parent may learn of the stop before or after SIGCONT
        processes.send("sleeper", signal.SIGSTOP)
        until("a stop", lambda: all("State:\tT (stopped)" in _status(one) for one in both), timeout=60)
        processes.send("sleeper", signal.SIGCONT)
        assert all("State:\tT (stopped)" not in _status(one) for one in both)
    processes.stop("sleeper", how=signal.SIGKILL, timeout=60)


@pytest.mark.needs_linux
def test_a_process_continues_beside_one_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    """The kernel cuts a name after 15 bytes, which can be within a character."""
    processes, named = Processes(tmp_path), tmp_path / "named"
    program = f"open('/proc/self/comm', 'wb').write(b'\\xc3'); open({str(named)!r}, 'w'); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as other:
        until("the name", named.exists, timeout=60)
        processes.start("sleeper", ["sleep", "600"])
        try:
            processes.send("sleeper", signal.SIGCONT)
        finally:
            processes.stop("sleeper", how=signal.SIGKILL, timeout=60)
            other.kill()


def _status(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()
