"""Processes on this machine: those of a container, and signals to them whose effect is counted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from coding_agent_testbed.cluster.processes import fingerprint

from tests.chaos.world import Effect, Undo


def processes_of(container: str) -> list[int]:
    """The processes of a container, by this machine's numbers; its first one comes first."""
    found = [pid for pid in _all_pids() if container in _read(Path(f"/proc/{pid}/cgroup"))]
    return sorted(found, key=_inner_pid)


def group_of(leader: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for pid in _all_pids():
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == leader:
                found.append(pid)
    return found


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    return [int(child) for child in _read(Path(f"/proc/{pid}/task/{pid}/children")).split()]


def kill(pids: Sequence[int]) -> Undo:
    """Send SIGKILL; the returned function only counts the processes that have ended."""
    before = fingerprints(pids)
    send(signal.SIGKILL, pids)
    return lambda: ended(before)


def fingerprints(pids: Sequence[int]) -> dict[int, str | None]:
    """When each process has started; `None`: it has ended."""
    return {pid: fingerprint(pid) for pid in pids}


def ended(before: dict[int, str | None]) -> Effect:
    """How many processes have ended.

    Args:
        before: when each one had started, as `fingerprints` says it.
    """
    gone = sum(started is not None and fingerprint(pid) != started for pid, started in before.items())
    return Effect(gone, f"of {len(before)} processes ended")


def stop(pids: Sequence[int]) -> Undo:
    """Send SIGSTOP; the returned function counts the processes that are stopped, and sends SIGCONT."""
    send(signal.SIGSTOP, pids)

    def go_on() -> Effect:
        effect = stopped(pids)
        send(signal.SIGCONT, pids)
        return effect

    return go_on


def stopped(pids: Sequence[int]) -> Effect:
    """How many of the processes are stopped now."""
    # proc(5): the state is the first field after the command's name.
    states = [_read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] for pid in pids]
    return Effect(sum(state == ["T"] for state in states), f"of {len(pids)} processes stopped")


def send(number: signal.Signals, pids: Sequence[int]) -> None:
    """Signal the processes that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _inner_pid(pid: int) -> int:
    lines = [line for line in _read(Path(f"/proc/{pid}/status")).splitlines() if line.startswith("NSpid:")]
    return int(lines[0].split()[-1]) if lines else 1 << 30


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended
        return ""
