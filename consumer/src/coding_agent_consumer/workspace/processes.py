"""Run a command with limited output and time, and kill everything that it started.

A command has its own session, and input only from a client. Processes that it daemonized are killed too.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coding_agent_consumer.workspace.framing import CHUNK, END_SECONDS


def descendants(parents: Mapping[int, int], root: int) -> set[int]:
    """Return every process below `root`, given each process's parent."""
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    below: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in below:
                below.add(child)
                waiting.append(child)
    return below


def parse_stat(stat: bytes) -> tuple[int, str]:
    """Return parent and state letter from /proc/PID/stat. The name before may have spaces and brackets."""
    fields = stat.rpartition(b")")[2].split()
    return int(fields[1]), fields[0].decode("ascii")


def living_parents() -> dict[int, int]:
    """Return the parent of every visible process that is not a zombie."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent, state = parse_stat(Path("/proc", name, "stat").read_bytes())
            if state not in "ZX":
                parents[int(name)] = parent
    return parents


def end_descendants(deadline: float = END_SECONDS) -> None:
    """Kill and reap all processes below this one, which must be PID 1 or a child subreaper.

    For PID 1 of a namespace this is one system call, which no fork can outrun. Otherwise all processes are
    stopped first, so that none can fork, and then killed, until none is left or `deadline` seconds have
    passed. The kernel says whether one is left: a scan of /proc takes time and misses new processes.

    SIGTERM and SIGINT are deferred meanwhile: a process that is stopped but not killed would never end.
    """
    me = os.getpid()
    give_up = time.monotonic() + deadline
    with signals_deferred():
        while True:
            if me == 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            else:
                below = descendants(living_parents(), me)
                # All are stopped first: while some are killed, the others could fork.
                for number in (signal.SIGSTOP, signal.SIGKILL):
                    for pid in below:
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, number)
            reap()
            if childless() or time.monotonic() > give_up:
                break
            os.sched_yield()


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer SIGTERM and SIGINT to the end of the block, in the main thread of a single-threaded program."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def childless() -> bool:
    """Whether this process has no children, running or ended. A subreaper then has no descendants."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def reap() -> dict[int, int]:
    """Collect every child that has ended. Return exit statuses as a shell reports them, by process id."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else 128 - code


_DRAIN_SECONDS = 2.0
"""Reading the rest of the pipe may take this long after all its writers were killed."""


class AbandonedError(Exception):
    """The client disconnected while the command ran; the command was killed."""


@dataclass(frozen=True)
class Finished:
    """The end of a command. `exit_code` is as a shell reports it; `None` after a timeout."""

    exit_code: int | None
    seconds: float

    @property
    def timed_out(self) -> bool:
        return self.exit_code is None


class Input:
    """Bytes on their way to a program's standard input."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._ended = False
        self._closed = False

    def add(self, data: bytes) -> None:
        self._pending += data

    def end(self) -> None:
        self._ended = True

    @property
    def waiting(self) -> bool:
        """Whether there is something to do once the pipe accepts bytes."""
        return not self._closed and (bool(self._pending) or self._ended)

    def write_to(self, pipe: IO[bytes]) -> None:
        """Write as much as the pipe accepts now, and close it after the last byte."""
        try:
            if self._pending:
                del self._pending[: os.write(pipe.fileno(), self._pending[:CHUNK])]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the program reads no more
            self._ended = True
            self._pending.clear()
        if self._ended and not self._pending:
            self._closed = True
            pipe.close()


@dataclass(frozen=True)
class Streams:
    """Callbacks for the data between a program and a client while the program runs, besides its output.

    Attributes:
        on_error: gets the standard error as it arrives.
        on_client: gets what the client sends. It may run another program, which must end on its own.
    """

    input: Input
    on_error: Callable[[bytes], bool | None]
    on_client: Callable[[bytes], None]


class CommandRunner:
    """Runs one command at a time, or one beside a program that streams; in the main thread, for SIGCHLD."""

    def __init__(self) -> None:
        self._running = 0
        self._ended: dict[int, int] = {}
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
        streams: Streams | None = None,
    ) -> Finished:
        """Run a program until it ends, its time is over or the client disconnects; then kill all it started.

        Args:
            timeout: the program's time in seconds.
            on_output: gets the output as it arrives; if it returns `False`, the program is stopped.
            stderr: the target of the standard error, as in `subprocess.Popen`; `streams` replaces it.

        Raises:
            OSError: the program cannot be started.
            AbandonedError: the client disconnected.
        """
        started = time.monotonic()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL if streams is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr if streams is None else subprocess.PIPE,
            start_new_session=True,
        )
        self._running += 1
        pipes: dict[int, Callable[[bytes], bool | None]] = {}
        if process.stdout is not None:
            pipes[process.stdout.fileno()] = on_output
        if process.stderr is not None and streams is not None:
            pipes[process.stderr.fileno()] = streams.on_error
        for pipe in (*pipes, *([process.stdin.fileno()] if process.stdin else [])):
            os.set_blocking(pipe, False)
        with process:  # closes the pipes
            try:
                code, abandoned = self._watch(process, pipes, started + timeout, client, streams)
            finally:
                self._end(process.pid)
                process.returncode = 0  # already reaped: Popen must not wait for it
            deadline = time.monotonic() + _DRAIN_SECONDS
            for descriptor, take in pipes.items():
                while data := _read(descriptor):
                    if take(data) is False or time.monotonic() > deadline:
                        break
        if abandoned:
            raise AbandonedError
        return Finished(code, time.monotonic() - started)

    def _end(self, pid: int) -> None:
        """Kill a program and all that it started. While another program runs, kill only its process group."""
        self._running -= 1
        if self._running == 0:
            end_descendants()
            self._ended.clear()
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        while pid not in self._ended and not childless():
            self._ended.update(reap())
            os.sched_yield()
        self._ended.pop(pid, None)

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        pipes: Mapping[int, Callable[[bytes], bool | None]],
        deadline: float,
        client: socket.socket | None,
        streams: Streams | None,
    ) -> tuple[int | None, bool]:
        with selectors.DefaultSelector() as selector:
            for pipe in (*pipes, self._wake_read):
                selector.register(pipe, selectors.EVENT_READ)
            if client is not None:
                selector.register(client, selectors.EVENT_READ)
            while True:
                self._ended.update(reap())
                if process.pid in self._ended:
                    return self._ended[process.pid], False
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None, False
                for key, _ in _select(selector, remaining, process.stdin, streams):
                    if client is not None and key.fileobj is client:
                        if _disconnected(client, streams):
                            return None, True
                    elif (data := _read(key.fd)) == b"" and key.fd in pipes:
                        selector.unregister(key.fd)
                    elif data and key.fd in pipes and pipes[key.fd](data) is False:
                        return 0, False


def _select(
    selector: selectors.BaseSelector, seconds: float, given: IO[bytes] | None, streams: Streams | None
) -> list[tuple[selectors.SelectorKey, int]]:
    """Wait for events. Write to the program what can be written; return the other events."""
    if given is None or streams is None or not streams.input.waiting:
        return selector.select(seconds)
    selector.register(given, selectors.EVENT_WRITE)
    events = selector.select(seconds)
    selector.unregister(given)
    if any(key.fileobj is given for key, _ in events):
        streams.input.write_to(given)
    return [(key, mask) for key, mask in events if key.fileobj is not given]


def _disconnected(client: socket.socket, streams: Streams | None) -> bool:
    """Receive the client's data, and return whether the client has disconnected."""
    if streams is None:
        return True  # a client sends nothing until it has the answer
    data = client.recv(CHUNK)
    if data:
        streams.on_client(data)
    return not data


def _read(descriptor: int) -> bytes | None:
    """Return the next bytes; empty at the end of the file; `None` if none are available yet."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return None


_BYTES_PER_CHARACTER = 4
"""The most bytes of one character in UTF-8."""


class BoundedOutput:
    """Keeps the first and the last bytes of a stream.

    Args:
        limit: the most characters of `text()`, without the note in the middle.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = max(1, limit // 2) * _BYTES_PER_CHARACTER
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data[-self._half :]
            if len(self._tail) > 2 * self._half:  # trimmed rarely, so that a flood costs little
                del self._tail[: -self._half]

    def text(self) -> tuple[str, bool]:
        """Return the text, and whether it was cut. Bytes that are not UTF-8 become U+FFFD."""
        tail = bytes(self._tail[-self._half :])
        lost = self._total - len(self._head) - len(tail)
        if lost <= 0:
            return cut_middle((bytes(self._head) + tail).decode("utf-8", "replace"), self._limit)
        half = max(1, self._limit // 2)
        head_text = _drop_partial_end(bytes(self._head)).decode("utf-8", "replace")[:half]
        tail_text = _drop_partial_start(tail).decode("utf-8", "replace")[-half:]
        # The omitted bytes between the two were counted, but not their characters.
        left_out = self._total - len(head_text.encode()) - len(tail_text.encode())
        return f"{head_text}\n[… about {left_out} bytes omitted …]\n{tail_text}", True


def cut_middle(text: str, limit: int) -> tuple[str, bool]:
    """Return a text, without its middle if it has more than `limit` characters, and whether it was cut."""
    if len(text) <= limit:
        return text, False
    half = max(1, limit // 2)
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters omitted …]\n{text[-half:]}", True


def _drop_partial_end(data: bytes) -> bytes:
    for back in range(1, min(_BYTES_PER_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a continuation byte
            continue
        width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return data[:-back] if width > back else data
    return data


def _drop_partial_start(data: bytes) -> bytes:
    skip = 0
    while skip < min(_BYTES_PER_CHARACTER - 1, len(data)) and data[skip] & 0xC0 == 0x80:
        skip += 1
    return data[skip:]
