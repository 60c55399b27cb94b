"""Registers processes with a queue in memory, and tells whether one is still alive on this machine.

A task in memory is lost with its process, which the item's comment names. Each process locks a file of its
own. The kernel releases the lock when the process ends for any reason. A process id or a time stamp would be
wrong after a reboot or in a container.
"""

from __future__ import annotations

import fcntl
import logging
import uuid
from pathlib import Path
from typing import Self

_logger = logging.getLogger("coding_agent.queue")


class Process:
    """This process in a folder of registered processes.

    Attributes:
        id: 32 hexadecimal digits.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "starting.lock").open("a") as starting:
            # Without this lock, another process could remove the new file before it is locked.
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._remove_ended()
            self._file = self._path(self.id).open("a")
            # The kernel releases the lock however the process ends; a process id can be another process's
            # by then.
            fcntl.flock(self._file, fcntl.LOCK_EX)

    @classmethod
    def start(cls, folder: Path) -> Self | None:
        """Register this process; return `None`, with a warning, if the folder cannot be written."""
        try:
            return cls(folder)
        except OSError as error:
            _logger.warning(
                "A task that runs when this process is killed will not be found again: cannot write %s (%s). "
                "Set context_storage.base_dir to a folder that can be written.",
                folder,
                error.strerror,
            )
            return None

    def is_alive(self, id: str) -> bool:
        """Whether a process is alive. A process of another machine, or of another folder, counts as ended."""
        try:
            with self._path(id).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _path(self, id: str) -> Path:
        return self._folder / f"{id}.lock"

    def _remove_ended(self) -> None:
        for path in self._folder.glob("?" * 32 + ".lock"):
            if not self.is_alive(path.stem):
                path.unlink(missing_ok=True)
