"""Memory of a program with all that it starts, and disk space of a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return a process and all its descendants (proc_pid_task_children(5))."""
    found, waiting = list[int](), [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += map(int, file.read_text(encoding="ascii").split())
            except (OSError, ValueError):
                continue
    return found


def memory_mib(pid: int) -> float:
    """Return the memory that a process and its descendants cannot give back, in MiB.

    Files that they have mapped, such as git's packs, do not count: the kernel drops their pages if it needs
    the room.
    """
    return sum(map(_own_kib, descendants(pid))) / 1024


def _own_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(found.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem"))


def disk_mib(folder: Path, *, without: str = "") -> float:
    """Return the disk space of a folder in MiB; a file with several links counts once.

    Args:
        without: the name of a folder in it that does not count.
    """
    exclude = [f"--exclude={folder / without}"] if without else []
    # Files come and go meanwhile, so an error is not a failure.
    done = subprocess.run(
        ["du", "-s", "--block-size=1", *exclude, str(folder)], check=False, capture_output=True, timeout=300
    )
    return int(done.stdout.split()[0]) / 2**20
