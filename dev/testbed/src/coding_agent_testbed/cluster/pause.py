"""The smallest first process: a static C program, compiled once."""

import hashlib
import os
from pathlib import Path

from coding_agent_testbed.cluster import apt, paths
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.locks import locked


def binary() -> Path:
    """Where the program is; compiled when the cache lacks it.

    Raises:
        MachineError: there is no C compiler and none can be installed.
    """
    source = paths.source_root() / "pause" / "pause.c"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    target = paths.cache_root() / "bin" / "pause" / key / "pause"
    with locked(paths.cache_root() / "bin" / "pause" / "build.lock"):
        if not target.exists():
            apt.ensure({"cc": "gcc"})
            apt.ensure_files({"/usr/include/unistd.h": "libc6-dev"})
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f"building-{os.getpid()}")
            run(["cc", "-static", "-Os", "-s", "-o", str(scratch), str(source)], timeout=120)
            scratch.rename(target)
    return target
