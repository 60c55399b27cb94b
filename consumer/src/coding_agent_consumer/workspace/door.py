"""The first process of a workspace container that lives on from task to task, as in docker compose.

`python -m coding_agent_consumer.workspace.door --folder DIR --root DIR`: a connection to `DIR/door` is a
task. While it lasts, a workspace serves on `DIR/workspace`; when it ends, whichever side ended it, every
process and file that the task left is removed, and the next task finds an empty workspace. One at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.__main__ import listen
from coding_agent_consumer.workspace.place import remove
from coding_agent_consumer.workspace.processes import end_descendants, signals_wait

DOOR = "door"
"""Name of the socket to which a consumer keeps a connection for the length of a task."""
WORKSPACE = "workspace"
"""Name of the socket on which the task's workspace serves."""


@dataclass(frozen=True)
class Rooms:
    """The folders that belong to the task in hand, all emptied after it.

    Attributes:
        folder: for the two sockets, shared with the consumer's container.
        root: for the tree, HOME and temporary files.
        others: further places where commands can write, e.g. `/tmp` and `/dev/shm`.
    """

    folder: Path
    root: Path
    others: tuple[Path, ...] = ()

    def empty(self) -> None:
        """Remove all that is in them, never the folders themselves: they are mounts."""
        for folder in (self.folder, self.root, *self.others):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    remove(Path(entry.path))
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def serve(rooms: Rooms, workspace: Sequence[str]) -> None:
    """Serve one task: wait for a consumer, then until it or the task's end; leaves nothing of the task.

    Args:
        workspace: command line of the workspace program, which ends when its standard input does.
    """
    try:
        rooms.empty()
        with listen(rooms.folder / DOOR) as listener:
            connection, _ = listener.accept()
        with connection:
            _task(connection, workspace)
    finally:
        with signals_wait():
            end_descendants()
            rooms.empty()


def _task(connection: socket.socket, workspace: Sequence[str]) -> None:
    """Keep a workspace running until the connection ends: one whose memory ran out is started again."""
    told = False
    while True:
        with subprocess.Popen(workspace, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None  # noqa: S101 - asked for
            line = process.stdout.readline()
            if not told:
                with contextlib.suppress(OSError):
                    connection.sendall(line or b'{"failed": "its program ended at once"}\n')
                told = True
            if not line.startswith(b'{"isolation"') or _consumer_left(
                connection.fileno(), process.stdout.fileno()
            ):
                # Gone before its pipes are closed: a command may hold them open.
                end_descendants()
                return
        end_descendants()


def _consumer_left(connection: int, workspace_output: int) -> bool:
    """Wait for the first to end: the consumer's connection (true) or the workspace (false)."""
    ready, _, _ = select.select([connection, workspace_output], [], [])
    return connection in ready


def main(argv: Sequence[str] | None = None) -> int:
    """Serve tasks until SIGTERM; further arguments go to the workspace program as they are."""
    parser = argparse.ArgumentParser(
        prog="coding_agent_consumer.workspace.door", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the sockets; shared with the consumer"
    )
    parser.add_argument("--root", type=Path, required=True, help="for the tree, HOME and temporary files")
    parser.add_argument(
        "--clear", type=Path, action="append", default=[], help="emptied after each task too, e.g. /tmp"
    )
    arguments, more = parser.parse_known_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Commands run as the same user: they may neither look into this process nor become it.
    linux.forbid_inspection()
    linux.adopt_orphans()
    rooms = Rooms(arguments.folder.resolve(), arguments.root.resolve(), tuple(arguments.clear))
    workspace = [sys.executable, "-m", "coding_agent_consumer.workspace", "--lifeline", *more]
    workspace += ["--socket", str(rooms.folder / WORKSPACE), "--root", str(rooms.root)]
    print(f"Serving workspaces at {rooms.folder}, one task at a time", flush=True)
    try:
        while True:
            serve(rooms, workspace)
            print("A task has ended, the workspace is empty again", flush=True)
    except OSError as error:
        print(f"cannot serve workspaces: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
