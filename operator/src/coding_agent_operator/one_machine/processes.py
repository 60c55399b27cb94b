"""The processes of attempts: started detached, found again after this process was killed, ended for certain.

Each attempt has a folder. Its supervisor leaves the records there, so they are right however this process and
the attempt end. A record has the process's id and when it started, because the system gives the id of an
ended process to others.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from coding_agent_core.platforms.text import last_lines
from coding_agent_core.task.attempts import MAX_TAIL

from coding_agent_operator.one_machine import supervise

_logger = logging.getLogger("operator.processes")

_MAX_MESSAGE = 4096
"""The most that Kubernetes reads of a termination message, too."""
_LOG_END = 8192


class State(Enum):
    """What is known of an attempt's process."""

    ABSENT = "absent"
    """It has not begun."""
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Exit:
    """How an attempt's process ended.

    Attributes:
        late: whether its time limit ended it.
        lost: whether it ended with the machine.
    """

    code: int
    late: bool = False
    lost: bool = False


@dataclass
class Processes:
    """The processes of attempts, by the names of their folders.

    Args:
        command: starts an attempt; its variables say which.
        temporary: the parent of the attempts' scratch folders. Their paths must be short, because there are
            Unix sockets in them.
    """

    folder: Path
    command: Sequence[str]
    temporary: Path
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, variables: Mapping[str, str], time_limit: float, grace: float) -> None:
        """Start an attempt, unless it was started before.

        Raises:
            OSError: it cannot be started now.
        """
        child = self._children.get(name)
        if child is not None and child.poll() is None:
            return  # it has not recorded itself yet
        folder, scratch = self.folder / name, self._scratch(name)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch.mkdir(exist_ok=True, mode=0o700)
        # The workspace below it has another user, who has to get through.
        scratch.chmod(0o711)
        # An attempt writes its outcome only into an existing file, as in a pod.
        (folder / "outcome").touch(mode=0o600)
        with (folder / "log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", supervise.__file__, str(folder.absolute())),
                    *(str(time_limit), str(grace), *self.command),
                ],
                env={
                    **os.environ,
                    "TERMINATION_LOG": str((folder / "outcome").absolute()),
                    "TMPDIR": str(scratch),
                    **variables,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _logger.info("Started %s; its log is %s", name, folder / "log")

    def refuse(self, name: str) -> None:
        """Ensure that an attempt that has not begun never begins."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A supervisor that is just starting finds its place taken.
        with suppress(FileExistsError):
            (folder / supervise.RECORD).touch(exist_ok=False)

    def state(self, name: str) -> State:
        """Return what is known of an attempt's process."""
        self._reap(name)
        folder = self.folder / name
        record = _read(folder / supervise.RECORD)
        if record is None:
            return State.ABSENT
        return State.RUNNING if self._pid(record) is not None else State.ENDED

    def exit_of(self, name: str) -> Exit:
        """Return how an ended process ended. Without a record, it was killed, or its machine has stopped."""
        folder = self.folder / name
        if (ended := _read(folder / supervise.EXIT)) is not None:
            return Exit(ended["code"], late=ended["late"])
        record = _read(folder / supervise.RECORD) or {}
        lost = bool(record) and record.get("boot") != supervise.boot_id()
        return Exit(128 + signal.SIGKILL, lost=lost)

    def message_of(self, name: str) -> str:
        """Return what an ended attempt left: its outcome, or the end of its log."""
        folder = self.folder / name
        with suppress(OSError):
            if outcome := (folder / "outcome").read_text(encoding="utf-8", errors="replace"):
                return outcome[:_MAX_MESSAGE]
            with (folder / "log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_END))
                return last_lines(log.read().decode(errors="replace"), MAX_TAIL)
        return ""

    def terminate(self, name: str) -> None:
        """Ask an attempt to end; its supervisor kills it after its grace time."""
        record = _read(self.folder / name / supervise.RECORD)
        pid = self._pid(record) if record else None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self, name: str) -> None:
        """Kill an attempt with its supervisor, which did not end it in time."""
        record = _read(self.folder / name / supervise.RECORD)
        pid = self._pid(record) if record else None
        if pid is not None:
            supervise.kill_descendants(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def clean(self, name: str) -> None:
        """Remove the scratch folder of an ended attempt."""
        shutil.rmtree(self._scratch(name), ignore_errors=True)

    def forget(self, name: str) -> None:
        """Remove everything that an ended attempt has left, with its log."""
        self.clean(name)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _scratch(self, name: str) -> Path:
        return self.temporary / f"coding-agent-{name.rpartition('.')[2]}"

    def _reap(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            del self._children[name]

    @staticmethod
    def _pid(record: Mapping[str, Any]) -> int | None:
        """Return the id of the recorded process if it is alive."""
        pid, started, boot = record.get("pid"), record.get("started"), record.get("boot")
        if not isinstance(pid, int) or boot != supervise.boot_id():
            return None
        return pid if supervise.start_time(pid) == started else None


def _read(file: Path) -> dict[str, Any] | None:
    """Return a record; empty if it says only that there must be no process, `None` if there is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    record: dict[str, Any] = json.loads(text) if text else {}
    return record
