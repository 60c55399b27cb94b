"""The workspace program: `python -m coding_agent_consumer.workspace --socket PATH --root DIR`.

It starts the server in isolation, and kills all remaining processes when either of the two ends. It needs
only the standard library, git and a shell, so it can be copied into any image. Its standard output is one
line of JSON: how the server is isolated, once it is ready, or why it cannot start.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # This comes before the imports below, which take time: the kernel drops a SIGTERM for a container's first
    # process if it has no handler. The pod starts it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

import argparse
import contextlib
import json
import select
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coding_agent_consumer.workspace import linux, sandbox
from coding_agent_consumer.workspace.files import WorkspaceFolders, remove
from coding_agent_consumer.workspace.processes import end_descendants
from coding_agent_consumer.workspace.workspace_server import ServerOptions, WorkspaceServer, listen

_START_SECONDS = 20
_MAX_SESSIONS = 64
"""The most sessions at a time. The agent has one; commands may connect too."""


@dataclass(frozen=True)
class Options:
    folders: WorkspaceFolders
    listener: socket.socket
    uid: int | None
    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    server: ServerOptions


def supervise(options: Options, isolation: str, *, lifeline: bool, report: Callable[..., None]) -> int:
    """Start the server, wait until it or this process has to end, and return the exit status.

    Args:
        isolation: `auto`, `namespaces` or `none`.
        lifeline: whether to end also when standard input is closed.
        report: called with `isolation` and `warning`, or with `failed`.
    """
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopping: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
    held: dict[int, socket.socket] = {}
    warning = ""
    pid = 0
    try:
        for attempt in ("namespaces", "none") if isolation == "auto" else (isolation,):
            sessions, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                pid, failure = _start(options, attempt, theirs)
            if not failure:
                report(isolation=attempt, warning=warning)
                break
            if attempt == "namespaces":
                warning = f"the workspace cannot have its own namespaces ({failure})"
        else:
            report(failed=warning if isolation == "namespaces" else failure)
            return 1
        # Commands may run as the same user, and must not reach the sessions.
        linux.forbid_inspection()
        with sessions:
            _pass_sessions(
                options.listener, sessions, held, wake=wake, pid=pid, stopping=stopping, lifeline=lifeline
            )
    finally:
        end_descendants()
        for session in held.values():
            session.close()
    return 0


def _pass_sessions(
    listener: socket.socket,
    server: socket.socket,
    held: dict[int, socket.socket],
    *,
    wake: int,
    pid: int,
    stopping: list[int],
    lifeline: bool,
) -> None:
    """Accept sessions and pass them to the server, until the server ends or we have to.

    We keep the sessions open too: a client must not see its session end before every command has ended.
    """
    server.setblocking(False)
    poll = select.poll()
    for descriptor in (wake, listener.fileno(), *([0] if lifeline else [])):
        poll.register(descriptor, select.POLLIN)
    while not stopping:
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 512)
                if _has_ended(pid):
                    return
            elif descriptor == 0:
                if not os.read(0, 512):
                    return
            elif descriptor == listener.fileno():
                with contextlib.suppress(OSError):
                    session, _ = listener.accept()
                    if len(held) >= _MAX_SESSIONS:
                        session.close()
                        continue
                    socket.send_fds(server, [b"\0"], [session.fileno()])
                    held[session.fileno()] = session
                    poll.register(session, 0)  # we wait only for its end: what arrives is for the server
            else:
                poll.unregister(descriptor)
                held.pop(descriptor).close()


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


def _start(options: Options, isolation: str, sessions: socket.socket) -> tuple[int, str]:
    """Fork the server. Return its process id, and why it failed, or an empty string."""
    read, write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        options.listener.close()
        _in_child(lambda: _run_server(options, isolation, parent, write, sessions), write)
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
    """Run `work` in a forked child, and exit instead of returning to the parent's code."""
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
        # The parent's clean-up and buffered output must not run a second time in the child.
        os._exit(1)


def _run_server(options: Options, isolation: str, parent: int, report: int, sessions: socket.socket) -> None:
    if isolation == "none":
        sandbox.drop_rights(options.uid, capabilities=options.uid is not None)
        try:
            os.chdir(options.folders.tree)
        except PermissionError as error:
            raise PermissionError(
                f"user {os.geteuid()} cannot access {options.folders.root}: set TMPDIR"
            ) from error
        linux.adopt_orphans()
        linux.die_with_parent()
        # If the parent died before `die_with_parent`, no signal comes any more.
        if os.getppid() == parent:
            _serve(options, options.folders, report, sessions)
        return
    own_user = not linux.may_administer()
    sandbox.enter_namespaces(own_user=own_user)
    linux.die_with_parent()
    if os.getppid() != parent:
        return
    pid = os.fork()
    if pid == 0:
        _in_child(lambda: _first_process(options, own_user, report, sessions), report)
    os.close(report)
    sessions.close()
    linux.forbid_inspection()
    os.waitpid(pid, 0)


def _first_process(options: Options, own_user: bool, report: int, sessions: socket.socket) -> None:
    """Be PID 1 of the new namespaces: when it ends, everything in them ends."""
    linux.die_with_parent()
    folders = sandbox.enter_view(options.folders, options.readable, options.hidden)
    sandbox.drop_rights(None if own_user else options.uid, capabilities=True)
    linux.die_with_parent()  # once more, because a change of user clears it
    _serve(options, folders, report, sessions)


def _serve(options: Options, folders: WorkspaceFolders, report: int, sessions: socket.socket) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    server = WorkspaceServer(folders, options.server)
    os.write(report, b"ready\n")
    os.close(report)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open for the life of the process
    server.serve(sessions)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="coding_agent_consumer.workspace", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on (mode 0600)")
    parser.add_argument(
        "--group",
        action="store_true",
        help="the group that we share with the agent may connect too (mode 0660)",
    )
    parser.add_argument("--root", type=Path, required=True, help="folder for the tree, HOME and /tmp")
    parser.add_argument("--command-timeout", type=float, default=300.0, help="seconds for one command")
    parser.add_argument("--output-limit", type=int, default=20_000, help="characters of output in one answer")
    isolations = ("auto", "namespaces", "none")
    parser.add_argument(
        "--isolation", choices=isolations, default="none", help="none: the container isolates"
    )
    parser.add_argument("--uid", type=int, help="user and group id to run as; needs root")
    parser.add_argument(
        "--readable",
        type=Path,
        action="append",
        default=[],
        help="visible in addition to the system's folders",
    )
    parser.add_argument("--hide", type=Path, action="append", default=[], help="never visible")
    parser.add_argument("--keep-env", action="append", default=[], help="variable to pass to commands")
    parser.add_argument(
        "--inherit-env", action="store_true", help="pass all variables to commands; none may be secret"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        action="append",
        default=[],
        help="folder outside the root that commands can write to; it is emptied with the root",
    )
    parser.add_argument("--git", type=Path, help="git to use; its folder ends the commands' PATH")
    parser.add_argument(
        "--path", action="append", default=[], help="folder of the commands' PATH; default: our PATH"
    )
    parser.add_argument("--lifeline", action="store_true", help="end when standard input is closed")
    parser.add_argument("--remove", type=Path, help="folder to remove before exit")
    return parser.parse_args(argv)


def _print_line(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the program is stopped, or, with `--lifeline`, until standard input is closed."""
    arguments = _arguments(argv)
    os.umask(0o022)
    linux.adopt_orphans()
    folders = WorkspaceFolders.below(arguments.root.resolve())
    try:
        folders.make()
        if arguments.uid is not None:
            for folder in (folders.root, folders.tree, folders.home, folders.tmp):
                os.chown(folder, arguments.uid, arguments.uid)
        listener = listen(arguments.socket, group=arguments.group)
    except OSError as error:
        _print_line(failed=f"cannot prepare the workspace: {error}")
        return 1
    search_path = arguments.path or os.environ.get("PATH", os.defpath).split(":")
    options = Options(
        folders=folders,
        listener=listener,
        uid=arguments.uid,
        readable=tuple(arguments.readable),
        hidden=tuple(arguments.hide),
        server=ServerOptions(
            command_timeout=arguments.command_timeout,
            output_limit=arguments.output_limit,
            search_path=(*search_path, *([str(arguments.git.parent)] if arguments.git else [])),
            keep=("*",) if arguments.inherit_env else tuple(arguments.keep_env),
            git=str(arguments.git or "git"),
            scratch=tuple(arguments.scratch),
        ),
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent, which then stops us
    try:
        return supervise(options, arguments.isolation, lifeline=arguments.lifeline, report=_print_line)
    finally:
        with contextlib.suppress(OSError):
            arguments.socket.unlink()
        if arguments.remove is not None:
            remove(arguments.remove)


if __name__ == "__main__":
    sys.exit(main())
