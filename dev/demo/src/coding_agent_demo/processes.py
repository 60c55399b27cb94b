"""Starts the programs of a demo, each as a process with its own log."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_CACHE = os.environ.get("CODING_AGENT_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
CACHE_ROOT = Path(_CACHE).expanduser().absolute() / "coding-agent"
"""The same folder as for the cluster of the test bed."""
LOGS = "logs"
"""The folder with one log for each process, in the folder of a demo."""
_START_SECONDS = 120.0


class DemoError(Exception):
    """The demo cannot go on; the sentence says why and where to look."""


@contextlib.contextmanager
def process(
    folder: Path,
    name: str,
    command: list[str],
    url: str,
    path: str = "",
    variables: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a program until the block ends, and wait until it answers at `url`.

    Args:
        folder: its working directory and home; its log is in `logs` below.
        path: folders that come first in its PATH, with a colon at the end.
        variables: of its environment, which has nothing else of the person's own.

    Raises:
        DemoError: it does not come up.
    """
    log = folder / LOGS / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    # Nothing of the person's own environment may change what the demo does.
    environment = {
        "PATH": path + os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        **(variables or {}),
    }
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    try:
        _wait_for(running, name, log, url)
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _wait_for(process: subprocess.Popen[bytes], name: str, log: Path, url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise DemoError(f"The {name} ended at once: {_tail(log)}")
        with contextlib.suppress(URLError, OSError), urlopen(url, timeout=10):
            return
        if time.monotonic() > deadline:
            raise DemoError(f"The {name} did not start within {_START_SECONDS:.0f} s: {_tail(log)}")
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "it wrote nothing"


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago, below those that Linux gives to connections (32768 and up, ip(7)).

    Each byte of a file stands for a port, as in the cluster of the test bed, so that no program that locks
    it draws the same
    one. The file stays open: the kernel drops the locks when this process ends.
    """
    CACHE_ROOT.mkdir(parents=True, exist_ok=True)
    reservations = os.open(CACHE_ROOT / "ports", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1_000):
        with contextlib.suppress(OSError):
            fcntl.lockf(reservations, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            socket.create_server(("127.0.0.1", port)).close()
            ports.append(port)
        if len(ports) == count:
            return ports
    raise DemoError("No free port was found on 127.0.0.1.")
