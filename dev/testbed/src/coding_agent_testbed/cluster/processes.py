"""Long-lived processes by name: started detached, found again later, ended with certainty.

A pid file holds the pid and when it started, so that a pid that the system has given to another process
since then is never signalled. The pid is negative if all of its process group is to be signalled.
"""

import contextlib
import os
import platform
import signal
import subprocess
import threading
from pathlib import Path

from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.until import NotReadyError, until

_CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# On a machine that does much else.
_START_S = 60
_END_S = 60
_LOOKS = 5
"""After SIGCONT, so many looks in a row, within a quarter of a second, must find no stopped process."""
# A controller-manager that does not find the API server within ten seconds ends.
RESTARTS = 60
_RESTARTING = """
left="$1"; shift
while :; do
    "$@"; status=$?
    [ "$left" -gt 0 ] || exit "$status"
    left=$((left - 1))
    echo "ended with status $status and is started again; $left more times after that"
    sleep 1
done
"""
# Children of this process: kept so that they are reaped when they end.
_children: list[subprocess.Popen[bytes]] = []
_reaping = threading.Lock()
"""Several threads may learn at the same time that a child has ended, and only one may remove it."""


def fingerprint(pid: int) -> str | None:
    """When the process started, in its system's own form; None when it has ended (a zombie has)."""
    if platform.system() == "Linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # proc(5): the state is the first field after the command's name, the start time the 20th.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" and not _has_threads(pid) else fields[19]
    ps = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    run = subprocess.run(ps, capture_output=True, text=True, timeout=10, check=False)
    return None if run.returncode or run.stdout.startswith("Z") else run.stdout.strip()


def _has_threads(pid: int) -> bool:
    """Whether a zombie still has threads: they may end after the first, and hold its ports until then."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _has_stopped(group: int) -> bool:
    """Whether a process of that group is stopped; false where there is no ``/proc``."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): after the command's name, which can be any bytes, come the state, the parent and the
            # process group.
            state, _, its_group, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(its_group) == group and state == "T":
                return True
    return False


class Processes:
    """The named processes of one cluster; ``folder`` keeps a pid file and a log for each."""

    def __init__(self, folder: Path) -> None:
        self._pids = folder / "pids"
        self.logs = folder / "logs"

    def start(
        self,
        name: str,
        command: list[str],
        *,
        enter: list[str] | None = None,
        path: str = "",
        restarts: int = 0,
    ) -> None:
        """Start ``command`` in a session of its own, unless the process of that name is alive.

        ``enter`` is put before the command (nsenter): then the process is nsenter's child. ``path`` is put
        before the plain PATH, and nothing else of this process' environment is passed on. With ``restarts``
        the process of that name is a shell that starts the command again when it has ended by itself, at
        most so many times and a second later; ``stop`` ends both.

        Raises:
            NotReadyError: it ended at once.
        """
        if self.pid(name) is not None:
            return
        self._pids.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        if restarts:
            command = ["/bin/sh", "-c", _RESTARTING, name, str(restarts), *command]
        environment = {"PATH": f"{path}:{_CLEAN_PATH}" if path else _CLEAN_PATH, "HOME": str(Path.home())}
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [*(enter or []), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        _children.append(child)
        pid = child.pid if not enter else self._only_child(child, name)
        if (started := fingerprint(pid)) is None:
            raise NotReadyError(f"{name} ended at once: {self.log_tail(name)}")
        # In one step: another process may read it at any moment, and this one may be killed.
        record = self._pids / f".{name}.{os.getpid()}"
        record.write_text(f"{'-' if restarts else ''}{pid} {started}")
        record.rename(self._pids / name)

    def forget(self, name: str) -> None:
        """Drop the record of a process that has ended otherwise."""
        (self._pids / name).unlink(missing_ok=True)

    def pid(self, name: str) -> int | None:
        """The pid of the living process of that name, or None."""
        with _reaping:
            for child in list(_children):
                if child.poll() is not None:
                    _children.remove(child)
        try:
            pid, _, started = (self._pids / name).read_text().partition(" ")
        except FileNotFoundError:
            return None
        number = abs(int(pid))
        return number if fingerprint(number) == started else None

    def names(self) -> list[str]:
        """Every name that was started and not stopped, dead ones included."""
        found = self._pids.iterdir() if self._pids.is_dir() else ()
        return sorted(file.name for file in found if not file.name.startswith("."))

    def require(self, *names: str) -> None:
        """Raise NotReadyError, with the end of its log, when one of the processes is not alive."""
        for name in names:
            if self.pid(name) is None:
                raise NotReadyError(f"{name} has ended: {self.log_tail(name)}")

    def stop(self, name: str, *, how: signal.Signals, timeout: float) -> None:
        """Signal the process and wait until it has ended; after ``timeout`` seconds it is killed.

        Raises:
            ClusterError: it lives on after SIGKILL (it hangs in the kernel).
        """
        if (pid := self.pid(name)) is not None:
            # The program that a restarting shell has started; only for its sake more than one is waited for.
            running = {one: fingerprint(one) for one in _children_of(pid)} if self._restarts(name) else {}

            def ended() -> bool:
                return self.pid(name) is None and not any(
                    started is not None and fingerprint(one) == started for one, started in running.items()
                )

            self._signal(name, pid, how)
            try:
                until(f"end of {name}", ended, timeout=timeout, interval=0.02)
            except NotReadyError:
                self._signal(name, pid, signal.SIGKILL)
                try:
                    until(f"end of {name}", ended, timeout=_END_S, interval=0.02)
                except NotReadyError as error:
                    raise ClusterError(f"{name} (pid {pid}) does not die of SIGKILL") from error
        (self._pids / name).unlink(missing_ok=True)

    def send(self, name: str, how: signal.Signals) -> None:
        """Signal the process with its whole process group; after SIGCONT, wait until all of it continues.

        The group has the program that a restarting shell has started, and nsenter. nsenter stops when
        it learns that its child was stopped. It can learn that after both have continued, and then it would
        never reap its child.

        Raises:
            ClusterError: it does not run, or stays stopped.
        """
        if (pid := self.pid(name)) is None:
            raise ClusterError(f"{name} does not run")
        group = os.getpgid(pid)
        os.killpg(group, how)
        looks = 0

        def continues() -> bool:
            nonlocal looks
            looks = 0 if _has_stopped(group) else looks + 1
            if not looks:
                os.killpg(group, how)
            return looks >= _LOOKS

        if how is signal.SIGCONT:
            until(f"{name} continues", continues, timeout=_END_S, interval=0.05)

    def log_tail(self, name: str, lines: int = 5) -> str:
        """The last lines of the process' log."""
        try:
            return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def _restarts(self, name: str) -> bool:
        """Whether the process of that name is a shell that starts its program again."""
        return (self._pids / name).read_text().startswith("-")

    def _signal(self, name: str, pid: int, how: signal.Signals) -> None:
        try:
            if self._restarts(name):
                os.killpg(os.getpgid(pid), how)  # at once, so that the shell starts nothing more
            else:
                os.kill(pid, how)
        except ProcessLookupError:
            return

    def _only_child(self, parent: subprocess.Popen[bytes], name: str) -> int:
        def child() -> int | None:
            if parent.poll() is not None:
                raise NotReadyError(f"{name} ended at once: {self.log_tail(name)}")
            return next(iter(_children_of(parent.pid)), None)

        return until(f"start of {name}", child, timeout=_START_S, interval=0.01)


def _children_of(pid: int) -> list[int]:
    """Empty where there is no ``/proc``."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
