"""PID 1 of a workspace container that serves task after task, as in docker compose.

`python -m coding_agent_consumer.workspace.gate --folder DIR --root DIR` serves one task at a time:

1. A consumer connects to `DIR/gate`, and sends the variables of the task's commands as a line of JSON.
2. While the connection is open, a workspace serves on `DIR/workspace`.
3. When either side closes the connection, all processes and files of the task are removed, so that the next
   task gets an empty workspace.
"""

from __future__ import annotations

import os
import signal

from coding_agent_consumer.workspace.framing import GATE, WORKSPACE

if __name__ == "__main__":
    # This comes before the imports below, which take time: the kernel drops a SIGTERM for a container's first
    # process if it has no handler. The service starts it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

import argparse
import contextlib
import json
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.files import remove
from coding_agent_consumer.workspace.processes import end_descendants, signals_deferred
from coding_agent_consumer.workspace.workspace_server import listen

_ENVIRONMENT_SECONDS = 10.0
_MAX_ENVIRONMENT = 64 * 1024
"""The longest line of JSON from a consumer, in bytes."""


@dataclass(frozen=True)
class TaskFolders:
    """The folders that are emptied after each task; `sockets` is shared with the consumer's container."""

    sockets: Path
    root: Path
    others: tuple[Path, ...]

    def empty(self) -> None:
        """Remove what is in the folders; the folders stay, because they are mounts."""
        for folder in (self.sockets, self.root, *self.others):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    remove(Path(entry.path))
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def serve_task(folders: TaskFolders, workspace: Sequence[str]) -> None:
    """Wait for a consumer, serve its task to the end, and remove everything that the task left.

    Args:
        workspace: the command line of the workspace program, which ends when its standard input is closed.
    """
    try:
        folders.empty()
        with listen(folders.sockets / GATE) as listener:
            connection, _ = listener.accept()
        with connection:
            try:
                environment = _read_environment(connection)
            except (OSError, ValueError):
                return
            _run_workspace(connection, workspace, environment)
    finally:
        _clear(folders)


def _clear(folders: TaskFolders) -> None:
    with signals_deferred():
        end_descendants()
        folders.empty()


def _read_environment(connection: socket.socket) -> dict[str, str]:
    """Read the variables that the consumer wants for the commands.

    Raises:
        OSError: the consumer disconnected, or sent nothing for 10 s.
        ValueError: the consumer sent something else.
    """
    connection.settimeout(_ENVIRONMENT_SECONDS)
    with connection.makefile("rb") as file:
        sent = json.loads(file.readline(_MAX_ENVIRONMENT))
    connection.settimeout(None)
    if not isinstance(sent, dict):
        raise ValueError("the variables are not an object")  # noqa: TRY004 - as for text that is not JSON
    return {str(name): str(value) for name, value in sent.items()}


def _run_workspace(
    connection: socket.socket, workspace: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Keep a workspace running while the connection is open; restart it when it has run out of memory.

    The consumer gets a line each time that the workspace was started: from then on the socket is the
    workspace's own, and not one that a command has put there.
    """
    arguments = [*workspace, *(word for name in environment for word in ("--keep-env", name))]
    variables = {**os.environ, **environment}
    while True:
        with subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables
        ) as process:
            assert process.stdout is not None  # noqa: S101 - requested above
            line = process.stdout.readline()
            with contextlib.suppress(OSError):
                connection.sendall(line or b'{"failed": "its program ended at once"}\n')
            started = line.startswith(b'{"isolation"')
            if not started or _consumer_disconnected(connection.fileno(), process.stdout.fileno()):
                # This comes before the pipes are closed, because a command can hold them open.
                end_descendants()
                return
        end_descendants()


def _consumer_disconnected(connection: int, workspace_output: int) -> bool:
    """Wait until the consumer disconnects (true) or the workspace ends (false)."""
    ready, _, _ = select.select([connection, workspace_output], [], [])
    return connection in ready


def main(argv: Sequence[str] | None = None) -> int:
    """Serve tasks until SIGTERM; unknown arguments are passed to the workspace program."""
    parser = argparse.ArgumentParser(
        prog="coding_agent_consumer.workspace.gate", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the sockets; shared with the consumer"
    )
    parser.add_argument("--root", type=Path, required=True, help="for the tree, HOME and temporary files")
    parser.add_argument(
        "--clear", type=Path, action="append", default=[], help="also emptied after each task, e.g. /tmp"
    )
    arguments, more = parser.parse_known_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Commands run as the same user, and must not inspect or control this process.
    linux.forbid_inspection()
    linux.adopt_orphans()
    folders = TaskFolders(arguments.folder.resolve(), arguments.root.resolve(), tuple(arguments.clear))
    workspace = [sys.executable, "-m", "coding_agent_consumer.workspace", "--lifeline", *more]
    workspace += ["--socket", str(folders.sockets / WORKSPACE), "--root", str(folders.root)]
    print(f"Serving workspaces at {folders.sockets}, one task at a time", flush=True)
    try:
        while True:
            serve_task(folders, workspace)
            print("The task ended; the workspace is empty again", flush=True)
    except OSError as error:
        print(f"Cannot serve workspaces: {error}", file=sys.stderr)
        return 1
    finally:
        # Clear again: a SIGTERM that comes just before `_clear` defers signals interrupts it in `serve_task`.
        _clear(folders)


if __name__ == "__main__":
    sys.exit(main())
