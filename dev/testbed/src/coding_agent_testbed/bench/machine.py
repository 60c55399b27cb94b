"""The machine, and how much of it other processes took meanwhile: figures of a busy one say little."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

QUIET = 0.10
"""Share of the machine that other processes may take for figures that are published."""

_TICKS = os.sysconf("SC_CLK_TCK")


class Watched:
    """The machine since this object was made."""

    def __init__(self) -> None:
        self._start = time.monotonic(), busy_seconds(), own_seconds()

    def others(self) -> float:
        """The share of all processors that neither this process nor a descendant took, from 0 to 1."""
        start, busy, own = self._start
        available = (time.monotonic() - start) * (os.cpu_count() or 1)
        taken = (busy_seconds() - busy) - (own_seconds() - own)
        return min(1.0, max(0.0, taken / available))


def describe() -> dict[str, Any]:
    """What it is."""
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def busy_seconds() -> float:
    """Processor time of all processes (proc_pid_stat(5)), and what a hypervisor gave to other machines.

    Interrupts are left out: nearly all of them are for the network traffic of the benchmark itself.
    """
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _, _, _, _, steal = (int(field) for field in fields[:8])
    return (user + nice + system + steal) / _TICKS


def own_seconds() -> float:
    """Processor time of this process and its descendants, also of those that have ended."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.name)] = int(fields[1])
        seconds[int(entry.name)] = sum(int(field) for field in fields[11:15]) / _TICKS
    own = os.getpid()
    return sum(taken for pid, taken in seconds.items() if _descends(pid, own, parents))


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid != ancestor and pid in parents:
        pid = parents[pid]
    return pid == ancestor
