"""Supervises one attempt: `python -I -S supervise.py FOLDER TIME_LIMIT GRACE COMMAND…`.

This program does what kubelet and kernel do for a pod, for as long as the attempt lasts, and it needs nothing
from the process that started it, which may be killed meanwhile. It uses only the standard library, because
one runs beside each attempt.

1. It records itself in FOLDER. A second supervisor of the same attempt finds the record, and ends.
2. It starts the command. On SIGTERM, or when the time limit (in seconds) is over, it sends SIGTERM to it, and
   SIGKILL after the grace time.
3. When the command has ended, it kills every process that is left, and records how the command ended.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

RECORD, EXIT = "process", "exit"
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_KILLED = 128 + signal.SIGKILL


def start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since the machine's; `None` if it has ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # proc(5): the state is the first field after the command's name, the start time the 20th.
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def boot_id() -> str:
    """Return an id that each start of the machine changes."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        return file.read().strip()


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="utf-8") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def kill_descendants(pid: int) -> bool:
    """Send SIGKILL to all descendants of a process; return whether there were any.

    Commands of the model run in sessions of their own, so the process group is not enough.
    """
    left, any_found = children_of(pid), False
    while left:
        child = left.pop()
        left += children_of(child)
        any_found = True
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return any_found


def _claim(folder: str) -> bool:
    """Record this process as the attempt's supervisor; `False` if the attempt has one, or is not wanted."""
    own = f"{folder}/{RECORD}.{os.getpid()}"
    with open(own, "w", encoding="utf-8") as file:
        json.dump({"pid": os.getpid(), "started": start_time(os.getpid()), "boot": boot_id()}, file)
    try:
        # A link is made with its content in one step, and fails if the name is taken.
        os.link(own, f"{folder}/{RECORD}")
    except FileExistsError:
        return False
    finally:
        os.unlink(own)
    return True


def _wait(child: "subprocess.Popen[bytes]", time_limit: float, grace: float) -> tuple[int, bool]:
    """Wait for the command; return its exit code, and whether the time limit ended it."""
    end, kill_at, late = time.monotonic() + time_limit, None, False
    while child.poll() is None:
        now = time.monotonic()
        if kill_at is None and now >= end:
            late, kill_at = True, now + grace
            child.send_signal(signal.SIGTERM)
        if kill_at is not None and now >= kill_at:
            kill_descendants(os.getpid())
        left = (kill_at if kill_at is not None else end) - now
        # SIGCHLD is pending from the moment in which the command ends, so none is missed.
        got = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, min(max(left, 0.05), 3600.0))
        if got is not None and got.si_signo == signal.SIGTERM and kill_at is None:
            kill_at = time.monotonic() + grace
            child.send_signal(signal.SIGTERM)
    code = child.returncode
    return (128 - code if code < 0 else code), late


def main(folder: str, time_limit: str, grace: str, *command: str) -> None:
    # Python leaves blocked signals pending: none is lost while the command starts. The command inherits the
    # mask, as from the image's entry point, and unblocks SIGTERM once it handles it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    # The credentials are in our environment, and the model's commands can have the same user.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if not _claim(folder):
        return
    # A process whose parent has ended becomes our child, and not init's, so that we find it.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command, preexec_fn=_unblock_sigchld)  # noqa: PLW1509 - one thread
        code, late = _wait(child, float(time_limit), float(grace))
    except OSError as error:
        print(f"The attempt cannot be started: {error}", file=sys.stderr)
        code, late = 127, False
    while kill_descendants(os.getpid()):
        while _reaped():
            pass
        time.sleep(0.01)
    draft = f"{folder}/{EXIT}.draft"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump({"code": code, "late": late, "at": time.time()}, file)
    os.replace(draft, f"{folder}/{EXIT}")


def _unblock_sigchld() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
