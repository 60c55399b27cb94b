"""The process between the agent and the workspace's server: starts it isolated, and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coding_agent_consumer.workspace import linux, sandbox
from coding_agent_consumer.workspace.place import Place
from coding_agent_consumer.workspace.processes import end_descendants
from coding_agent_consumer.workspace.server import Limits, Server

_START_SECONDS = 20


@dataclass(frozen=True)
class Served:
    """What is to be served, and how far it may see. The fields are the program's arguments."""

    place: Place
    listener: socket.socket
    command_timeout: float
    output_limit: int
    uid: int | None
    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    keep: tuple[str, ...]
    search_path: tuple[str, ...]
    git: str = "git"


def supervise(served: Served, isolation: str, *, lifeline: bool, say: Callable[..., None]) -> int:
    """Start the server, tell how, and wait for its end or ours.

    Args:
        isolation: `auto`, `namespaces` or `none`.
        lifeline: standard input's end is ours.
        say: takes `isolation` and `warning`, or `failed`.

    Returns:
        the exit status.
    """
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    warning = ""
    pid = 0
    try:
        for attempt in ("namespaces", "none") if isolation == "auto" else (isolation,):
            pid, failure = _start(served, attempt)
            if not failure:
                say(isolation=attempt, warning=warning)
                break
            if attempt == "namespaces":
                warning = f"the workspace cannot have namespaces of its own ({failure})"
        else:
            say(failed=warning if isolation == "namespaces" else failure)
            return 1
        served.listener.close()
        _wait(pid, wake, lifeline, stopping)
    finally:
        end_descendants()
    return 0


def _wait(pid: int, wake: int, lifeline: bool, stopping: list[int]) -> None:
    watched = [wake, 0] if lifeline else [wake]
    while not stopping:
        ready, _, _ = select.select(watched, [], [])
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 512)
            if _has_ended(pid):
                return
        if 0 in ready and not os.read(0, 512):
            return


def _has_ended(pid: int) -> bool:
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if ended == 0:
            return False
        if ended == pid:
            return True


def _start(served: Served, isolation: str) -> tuple[int, str]:
    """Fork the server; its process id, and why it failed if it did."""
    read, write = os.pipe2(os.O_CLOEXEC)
    us = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _in_child(lambda: _become(served, isolation, us, write), write)
    os.close(write)
    with os.fdopen(read, "rb") as report:
        ready, _, _ = select.select([report], [], [], _START_SECONDS)
        answer = report.readline(4096) if ready else b""
    if answer == b"ready\n":
        return pid, ""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return pid, json.loads(answer)["failed"] if answer else "it did not start in time"


def _in_child(work: Callable[[], None], report: int) -> None:
    """Run in a forked child, which never returns into the parent's code."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(
                report, json.dumps({"failed": str(error) or type(error).__name__}).encode()[:4000] + b"\n"
            )
    finally:
        os._exit(1)


def _become(served: Served, isolation: str, parent: int, report: int) -> None:
    if isolation == "none":
        sandbox.drop_rights(served.uid, capabilities=served.uid is not None)
        try:
            os.chdir(served.place.tree)
        except PermissionError as error:
            raise PermissionError(
                f"user {os.geteuid()} cannot get to {served.place.root}: set consumer.workspace.base_dir"
            ) from error
        linux.adopt_orphans()
        linux.die_with_parent()
        if os.getppid() != parent:
            return
        _serve(served, served.place, report)
        return
    own_user = not linux.may_administer()
    sandbox.enter_namespaces(own_user=own_user)
    linux.die_with_parent()
    if os.getppid() != parent:
        return
    pid = os.fork()
    if pid == 0:
        _in_child(lambda: _first_process(served, own_user, report), report)
    os.close(report)
    served.listener.close()
    linux.forbid_inspection()
    os.waitpid(pid, 0)


def _first_process(served: Served, own_user: bool, report: int) -> None:
    """As PID 1 of the new namespaces, whose end is the end of everything in them."""
    linux.die_with_parent()
    place = sandbox.enter_view(served.place, served.readable, served.hidden)
    sandbox.drop_rights(None if own_user else served.uid, capabilities=True)
    linux.die_with_parent()  # again: a change of user clears it
    _serve(served, place, report)


def _serve(served: Served, place: Place, report: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    limits = Limits(served.command_timeout, served.output_limit)
    server = Server(place, limits, list(served.search_path), served.keep, served.git)
    os.write(report, b"ready\n")
    os.close(report)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the process's life
    server.serve(served.listener)
