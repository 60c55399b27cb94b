"""One at a time: a lock that the kernel lets go when its holder dies, whatever killed it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coding_agent_testbed.cluster.errors import ClusterError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (made when absent), waiting for another holder without limit.

    The holders do bounded work (a build, a start), each with its own deadline, so the wait ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_at(handle.fileno(), path):
                continue  # the holder that we waited for has removed it
            yield
            return


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that others find under this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def try_locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, or fail at once.

    Raises:
        ClusterError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClusterError(f"another process is using {path.stem}") from error
        yield
