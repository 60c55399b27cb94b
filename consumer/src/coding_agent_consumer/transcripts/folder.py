"""A folder of transcripts: local, or a mounted volume."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

_logger = logging.getLogger("coding_agent.transcript")


def write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(data)


def cleanup(base_dir: Path, days: int, *, now: datetime) -> int:
    """Remove transcripts that were last written more than `days` ago, and folders left empty; how many.

    Args:
        days: 0 keeps all.
        now: aware.
    """
    if days <= 0 or not base_dir.is_dir():
        return 0
    oldest = now.timestamp() - days * 86_400
    removed: list[Path] = []
    for path in base_dir.rglob("*.jsonl"):
        try:
            if path.is_file() and not path.is_symlink() and path.stat().st_mtime < oldest:
                path.unlink()
                removed.append(path)
        except FileNotFoundError:
            continue  # another attempt, on the same volume, was faster
        except OSError as error:
            _logger.warning("Cannot remove the old transcript %s: %s", path, error.strerror)
    folders = {folder for path in removed for folder in path.parents if base_dir in folder.parents}
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with suppress(OSError):  # it holds something still
            folder.rmdir()
    return len(removed)
