"""Running one command: its own session, no input, bounded output, bounded time, and nothing left over."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coding_agent_consumer.workspace.processes import end_descendants, reap
from coding_agent_consumer.workspace.wire import CHUNK

_DRAIN_SECONDS = 2.0
"""For what is in the pipe when everything that could write to it has been killed."""


class AbandonedError(Exception):
    """The client hung up while the command ran; the command was killed."""


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit status as a shell tells it, `None` when it ran out of time."""

    exit_code: int | None
    seconds: float

    @property
    def timed_out(self) -> bool:
        """It ran out of time."""
        return self.exit_code is None


class Commands:
    """Runs commands one after the other; needs the main thread, since it listens to SIGCHLD."""

    def __init__(self) -> None:
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        timeout: float,
        on_output: Callable[[bytes], bool | None],
        stderr: int = subprocess.STDOUT,
        client: socket.socket | None = None,
    ) -> Finished:
        """Run a program until it ends, its time is over, or the client hangs up; then end all it started.

        Args:
            timeout: seconds.
            on_output: takes the output as it comes; `False` means that enough was read: the program is ended.
            stderr: as in `subprocess`.
            client: watched for hanging up.

        Raises:
            OSError: it cannot be started.
            AbandonedError: the client hung up.
        """
        started = time.monotonic()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            close_fds=True,
        )
        assert process.stdout is not None  # noqa: S101 - asked for just above
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        try:
            code, abandoned = self._watch(process.pid, pipe, started + timeout, on_output, client)
        finally:
            end_descendants()
            process.returncode = 0  # reaped here: Popen must not wait for it
        try:
            self._drain(pipe, on_output)
        finally:
            process.stdout.close()
        if abandoned:
            raise AbandonedError
        return Finished(code, time.monotonic() - started)

    def _watch(
        self,
        pid: int,
        pipe: int,
        deadline: float,
        on_output: Callable[[bytes], bool | None],
        client: socket.socket | None,
    ) -> tuple[int | None, bool]:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            if client is not None:
                selector.register(client, selectors.EVENT_READ)
            while True:
                ended = reap()
                if pid in ended:
                    return ended[pid], False
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None, False
                for key, _ in selector.select(remaining):
                    if key.fileobj is client:
                        return None, True  # the client has nothing to say before our answer: it hung up
                    data = _read(key.fd)
                    if key.fd == pipe and data == b"":
                        selector.unregister(pipe)
                    elif key.fd == pipe and data and on_output(data) is False:
                        return 0, False

    @staticmethod
    def _drain(pipe: int, on_output: Callable[[bytes], bool | None]) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while data := _read(pipe):
            if on_output(data) is False or time.monotonic() > deadline:
                break


def _read(descriptor: int) -> bytes | None:
    """The next bytes; empty at the end; `None` when there are none yet."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None
