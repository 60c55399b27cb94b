"""The workspace program: `python -m coding_agent_consumer.workspace --socket PATH --root DIR`.

It needs the standard library, git and a shell, so it can be copied into any image. It says on its standard
output, as one line of JSON, when it is ready and how it is isolated, or why it cannot start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.place import Place, remove
from coding_agent_consumer.workspace.supervise import Served, supervise


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="coding_agent_consumer.workspace", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to serve on (mode 0600)")
    parser.add_argument(
        "--group", action="store_true", help="the socket's group, that of its folder, may connect (mode 0660)"
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the tree, HOME and /tmp")
    parser.add_argument("--command-timeout", type=float, default=300.0, help="seconds for one command")
    parser.add_argument("--output-limit", type=int, default=20_000, help="characters of output that are told")
    parser.add_argument(
        "--isolation",
        choices=("auto", "namespaces", "none"),
        default="none",
        help="none: the container is the isolation",
    )
    parser.add_argument("--uid", type=int, help="user and group id to become; needs root")
    parser.add_argument(
        "--readable", type=Path, action="append", default=[], help="seen beside the system's folders"
    )
    parser.add_argument("--hide", type=Path, action="append", default=[], help="never seen")
    parser.add_argument("--keep-env", action="append", default=[], help="variable that commands see")
    parser.add_argument(
        "--inherit-env", action="store_true", help="commands see all variables: they hold no secret here"
    )
    parser.add_argument(
        "--git", type=Path, help="our own; its folder ends the commands' PATH, for images without one"
    )
    parser.add_argument(
        "--path", action="append", default=[], help="folder of the commands' PATH; default: our own PATH"
    )
    parser.add_argument("--lifeline", action="store_true", help="end when standard input ends")
    parser.add_argument("--remove", type=Path, help="folder to remove at the end")
    return parser.parse_args(argv)


def listen(path: Path, *, group: bool = False) -> socket.socket:
    """A socket that only we can connect to, or our group too."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117 if group else 0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(8)
    return listener


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until killed, or, with `--lifeline`, until standard input ends."""
    arguments = _arguments(argv)
    os.umask(0o022)
    linux.adopt_orphans()
    place = Place.below(arguments.root.resolve())
    try:
        place.make()
        if arguments.uid is not None:
            for folder in (place.root, place.tree, place.home, place.tmp):
                os.chown(folder, arguments.uid, arguments.uid)
        listener = listen(arguments.socket, group=arguments.group)
    except OSError as error:
        _say(failed=f"cannot prepare the workspace: {error}")
        return 1
    search_path = arguments.path or os.environ.get("PATH", os.defpath).split(":")
    served = Served(
        place=place,
        listener=listener,
        command_timeout=arguments.command_timeout,
        output_limit=arguments.output_limit,
        uid=arguments.uid,
        readable=tuple(arguments.readable),
        hidden=tuple(arguments.hide),
        keep=("*",) if arguments.inherit_env else tuple(arguments.keep_env),
        search_path=(*search_path, *([str(arguments.git.parent)] if arguments.git else [])),
        git=str(arguments.git or "git"),
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C is for the agent, which then ends us
    try:
        return supervise(served, arguments.isolation, lifeline=arguments.lifeline, say=_say)
    finally:
        with contextlib.suppress(OSError):
            arguments.socket.unlink()
        if arguments.remove is not None:
            remove(arguments.remove)


if __name__ == "__main__":
    sys.exit(main())
