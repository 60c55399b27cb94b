"""Copies a repository's shared package cache for an attempt that may not write to it.

    python -m coding_agent_consumer.workspace.cache FROM TO

It runs in an init container, as the workspace's user and without secrets. A package manager's folder is
copied whole or not at all, because part of an unpacked package would be taken for the package. Whatever
happens, it exits 0: without a copy, packages are downloaded.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

FOLDERS = (
    *("pip", "npm/_cacache", "yarn", "uv", "maven"),
    # What was downloaded, without what was unpacked of it: that is larger, and may be half done.
    *("go/cache/download", "cargo/registry/index", "cargo/registry/cache"),
)
"""Package managers put whole files into these, by renaming, so that a copy while they work is sound."""
_BYTES = 1024**3
_FILES = 100_000
"""Of one package manager's folder."""
_SECONDS = 80.0
"""For all of them. The attempt waits meanwhile."""


class TooLargeError(Exception):
    """The rest of the copy would exceed a limit."""


@dataclass
class Limit:
    """What may still be copied.

    Attributes:
        until: by the monotonic clock.
    """

    bytes: int
    files: int
    until: float

    def take(self, size: int) -> None:
        self.bytes -= size
        self.files -= 1
        if self.bytes < 0 or self.files < 0 or time.monotonic() > self.until:
            raise TooLargeError


def copy(source: Path, target: Path, limit: Limit) -> None:
    """Copy a tree: folders, files and symbolic links as they are; what vanishes meanwhile is left out.

    Raises:
        TooLargeError: the limit is reached.
        OSError: it cannot be written.
    """
    target.mkdir(parents=True)
    with os.scandir(source) as entries:
        for entry in entries:
            to = target / entry.name
            try:
                status = entry.stat(follow_symlinks=False)
                limit.take(status.st_size)
                if stat.S_ISLNK(status.st_mode):
                    to.symlink_to(os.readlink(entry.path))
                elif stat.S_ISDIR(status.st_mode):
                    copy(Path(entry.path), to, limit)
                elif stat.S_ISREG(status.st_mode):
                    shutil.copy2(entry.path, to, follow_symlinks=False)
            except (FileNotFoundError, PermissionError):
                continue


def main(source: Path, target: Path) -> None:
    """Copy every folder that fits."""
    for name in FOLDERS:
        part = target / ".part"
        limit = Limit(_BYTES, _FILES, time.monotonic() + _SECONDS / len(FOLDERS))
        try:
            if not (source / name).is_dir():
                continue
            copy(source / name, part, limit)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            part.rename(target / name)
            print(f"copied {name}: {_FILES - limit.files} entries, {(_BYTES - limit.bytes) >> 20} MiB")
        except TooLargeError:
            print(f"left out {name}: it is too large")
        except OSError as error:
            print(f"left out {name}: {error}")
        finally:
            shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
