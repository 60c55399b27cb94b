"""Ending everything that a command started, also what daemonised away from it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path


def descendants(parents: Mapping[int, int], root: int) -> set[int]:
    """Every process below `root`, given each process's parent."""
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def parse_stat(stat: bytes) -> tuple[int, str]:
    """Parent and state letter from /proc/PID/stat; the name before them may hold spaces and brackets."""
    fields = stat.rpartition(b")")[2].split()
    return int(fields[1]), fields[0].decode("ascii")


def living_parents() -> dict[int, int]:
    """The parent of each process that we can see and that is not a zombie."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent, state = parse_stat(Path("/proc", name, "stat").read_bytes())
            if state not in "ZX":
                parents[int(name)] = parent
    return parents


END_SECONDS = 40.0
"""For ending a command's processes. A storm of forks leaves us a small share of the processor: one look at
/proc can take seconds, and it takes some rounds to thin the storm out."""


def end_descendants(deadline: float = END_SECONDS) -> None:
    """Kill and reap every process below this one, which must be PID 1 or a child subreaper.

    As PID 1 of a namespace one system call does it, and no fork can race it. Elsewhere all are stopped first,
    so that what forks cannot outrun us, then killed, until none is left or so many seconds have passed.
    That none is left the kernel tells: a look at /proc takes time, and misses who was born during it.

    A signal that ends us has to wait: who was stopped and not killed yet would never end, nor whoever waits
    for it.
    """
    with signals_wait():
        _end_descendants(deadline)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Signals that end us do so afterwards; for the main thread of a program without others."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_descendants(deadline: float) -> None:
    me = os.getpid()
    give_up = time.monotonic() + deadline
    while True:
        if me == 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        else:
            below = descendants(living_parents(), me)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in below:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
        reap()
        if childless() or time.monotonic() > give_up:
            break
        os.sched_yield()


def childless() -> bool:
    """Whether this process has no child, ended or not; where orphans come to it, nothing is below it then."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def reap() -> dict[int, int]:
    """Collect every child that has ended: process id to exit status as a shell reports it."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code
