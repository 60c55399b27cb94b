"""The workspace's server. It takes one request at a time from the socket, and works in the tree."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coding_agent_consumer.workspace import files, framing
from coding_agent_consumer.workspace.files import (
    WorkspaceFolders,
    command_environment,
    remove,
    usable_path,
)
from coding_agent_consumer.workspace.framing import RequestError
from coding_agent_consumer.workspace.processes import (
    AbandonedError,
    BoundedOutput,
    CommandRunner,
    Input,
    Streams,
    childless,
    end_descendants,
)
from coding_agent_consumer.workspace.tree import Tree

_ERRORS_LIMIT = 16_000
"""The most characters of a streaming process's standard error, from its start and end."""
_TRANSFER_SECONDS = 120.0
"""A client that stops sending in the middle of a frame is dropped after this time."""


@dataclass(frozen=True)
class ServerOptions:
    """The server's part of the command line.

    Attributes:
        command_timeout: seconds that one command may take.
        output_limit: characters of output in one answer.
        search_path: folders of the commands' PATH.
        keep: variables that commands inherit; `*`: all.
        git: the git program to use.
        scratch: folders outside the workspace's root that commands can write to.
    """

    command_timeout: float
    output_limit: int
    search_path: tuple[str, ...]
    keep: tuple[str, ...]
    git: str
    scratch: tuple[Path, ...] = ()


def listen(path: Path, *, group: bool = False) -> socket.socket:
    """Return a listening socket for this user only, or also for the group that it shares with the agent.

    That is the folder's group (`fsGroup`), which the socket inherits. gVisor makes the folder that containers
    share anew, as root's, so there it is the process's only other group.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode is set as the socket is made: with chmod, others could connect in between.
    before = os.umask(0o117 if group else 0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    others = [number for number in os.getgroups() if number != os.getgid()]
    if group and path.stat().st_gid == os.getgid() and len(others) == 1:
        os.chown(path, -1, others[0])
    listener.listen(8)
    return listener


class WorkspaceServer:
    """Answers requests one after the other, so no command runs during another request."""

    def __init__(self, folders: WorkspaceFolders, options: ServerOptions) -> None:
        self._folders = folders
        self._options = options
        self._commands = CommandRunner()
        self._env = command_environment(
            folders, usable_path(options.search_path), dict(os.environ), options.keep
        )
        self._tree = Tree(folders, self._commands, self._env, options.git)
        self._session: socket.socket | None = None
        self._only: socket.socket | None = None
        """The only session that is answered; `None`: every session is."""
        # Models write for bash; images without it have a plain shell.
        self._shell = shutil.which("bash", path=self._env["PATH"]) or "/bin/sh"

    def serve(self, sessions: socket.socket) -> None:
        """Answer the requests of the sessions that arrive over `sessions`, until this is closed.

        A session carries connected sockets, one for each request.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(sessions, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    carrier: socket.socket = key.fileobj  # type: ignore[assignment]
                    received = _received(carrier)
                    if received is not None and carrier is sessions:
                        selector.register(received, selectors.EVENT_READ)
                    elif received is not None:
                        self._session = carrier
                        self._serve(received)
                    elif carrier is sessions:
                        return
                    else:
                        selector.unregister(carrier)
                        carrier.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if self._only not in (None, self._session):
                return
            connection.settimeout(_TRANSFER_SECONDS)
            # If the client is gone or its request is not valid, there is nobody to answer.
            with contextlib.suppress(OSError, framing.WireError, AbandonedError):
                self._exchange(connection)

    def _exchange(self, connection: socket.socket) -> None:
        prefix = _receive(connection, framing.PREFIX.size)
        header, length = framing.decode_header(_receive(connection, framing.header_length(prefix)))
        fields, body = _answer_of(lambda: self._answer(header, length, connection))
        connection.settimeout(_TRANSFER_SECONDS)
        _send(connection, fields, body)
        if header["op"] in ("start", "seed"):  # these may not have read all that the client sends
            _drain(connection)

    def _answer(
        self, header: dict[str, Any], length: int, connection: socket.socket
    ) -> tuple[dict[str, Any], bytes]:
        """Execute a request, and return the fields and the body of its answer."""
        if header["op"] == "seed":
            if header.get("over") in ("all", "tracked"):
                self._take_over()
            if header.get("over") == "all":
                self._empty()
            self._seed(header, length, connection)
            return {}, b""
        body = _receive(connection, length)
        match header["op"]:
            case "ping":
                return {}, b""
            case "diff":
                return self._diff()
            case "run":
                return self._run(header, body, connection)
            case "start":
                return self._start(header, body, connection)
            case "input":
                raise RequestError("No process is running that could take input.")
            case "list_files":
                text = self._tree.list_files(_string(header, "path"), self._output_limit(header))
            case "search":
                pattern = body.decode("utf-8", "surrogateescape")
                if not pattern or "\0" in pattern:
                    raise RequestError("Give a regular expression to search for.")
                text = self._tree.search(pattern, _string(header, "path"), self._output_limit(header))
            case _:
                with files.deadline(files.FILE_SECONDS):
                    text = self._work_on_file(header, body)
        return {}, text.encode("utf-8", "replace")

    def _diff(self) -> tuple[dict[str, Any], bytes]:
        patch = self._tree.diff()
        return patch.fields(), patch.data

    def _work_on_file(self, header: dict[str, Any], body: bytes) -> str:
        tree, path = self._folders.tree, _string(header, "path")
        if header["op"] == "read_file":
            count = None if header.get("line_count") is None else _number(header, "line_count")
            start = _number(header, "start_line")
            return files.read_lines(tree, path, start, count, self._output_limit(header))
        if header["op"] == "write_file":
            files.write(tree, path, body)
        else:
            split = _number(header, "old_length")
            files.edit(tree, path, body[:split], body[split:])
        return ""

    def _take_over(self) -> None:
        """Make this session the only one, and end what commands started.

        1. A command opens a session, leaves requests in it, and ends.
        2. The client seeds the tree again, to run the next command on it.
        3. The server would answer the requests of step 1 before that command, and change the tree.
        """
        self._only = self._session
        end_descendants()
        # A process that is left would see, and could change, what the next command checks.
        if not childless():
            raise RequestError("Processes that a command started cannot be ended.")

    def _empty(self) -> None:
        """Remove all files that commands can have left.

        Raises:
            RequestError: some of them cannot be removed.
        """
        folders, left = self._folders, list[str]()
        # TMPDIR stays, because a container's /tmp is a mount of it.
        kept = (str(folders.tmp), *map(str, self._options.scratch))
        for folder in (str(folders.root), *kept):
            for entry in _entries(folder):
                if entry not in kept or os.path.islink(entry):
                    remove(Path(entry))
            left += [entry for entry in _entries(folder) if entry not in kept]
        if left:
            raise RequestError(f"{files.cut_end(left[0], 200)} cannot be removed.")
        folders.make()

    def _seed(self, header: dict[str, Any], length: int, connection: socket.socket) -> None:
        branch, commit = _string(header, "branch"), _string(header, "commit")
        folders = [str(folder) for folder in header.get("folders") or ()]
        with tempfile.TemporaryDirectory(prefix="seed-", dir=self._folders.root) as packs:
            for name, size in framing.pack_files(header, length):
                _receive_file(connection, Path(packs, name), size)
            if header.get("over") == "tracked":
                self._tree.restore(Path(packs), branch, commit, folders)
            else:
                self._tree.seed(Path(packs), branch, commit, folders)

    def _run(
        self, header: dict[str, Any], body: bytes, connection: socket.socket
    ) -> tuple[dict[str, Any], bytes]:
        # A number above the limit, and a value that is not a number, mean the limit.
        timeout = framing.number(header.get("timeout"), most=self._options.command_timeout)
        output = BoundedOutput(self._output_limit(header))
        if b"\0" in body:
            raise RequestError("A command cannot contain a NUL character.")
        try:
            self._folders.make()  # a command can remove the tree itself
            finished = self._commands.run(
                [self._shell, "-c", os.fsdecode(body)],
                cwd=self._folders.tree,
                env=self._env,
                timeout=timeout or self._options.command_timeout,
                on_output=output.add,
                client=connection,
            )
        except OSError as error:
            raise RequestError(f"The command cannot be started: {error.strerror}.") from error
        text, truncated = output.text()
        fields = {
            "exit_code": finished.exit_code,
            "truncated": truncated,
            "seconds": round(finished.seconds, 3),
        }
        return fields, text.encode("utf-8", "replace")

    def _start(
        self, header: dict[str, Any], body: bytes, connection: socket.socket
    ) -> tuple[dict[str, Any], bytes]:
        """Run a process with streamed output and input; meanwhile the client can ask for the patch."""
        argv, env, contents = _process_of(body)
        timeout = framing.number(header.get("timeout"), most=framing.MAX_PROCESS_SECONDS)
        if timeout is None:
            raise RequestError("timeout is not a number of seconds.")
        self._folders.make()
        # Some programs read their folder from PWD, which no shell sets here.
        env = {**self._env, "PWD": str(self._folders.tree), **env}
        if shutil.which(argv[0], path=env["PATH"]) is None:
            raise RequestError(f"There is no program {argv[0]} in the workspace: its image must have it.")
        with files.deadline(files.FILE_SECONDS):
            for path, content in contents.items():
                files.write(self._folders.home, path, content)
        frames, stdin, errors = framing.FrameReader(framing.MAX_TEXT), Input(), BoundedOutput(_ERRORS_LIMIT)
        left = framing.MAX_STREAM

        def send_output(data: bytes) -> bool:
            nonlocal left
            left -= len(data)
            if left >= 0:
                _send(connection, {"kind": "output"}, data)
            return left >= 0

        def on_client(data: bytes) -> None:
            for frame, content in frames.feed(data):
                if frame["op"] == "input":
                    stdin.add(content)
                    if frame.get("end") is True:
                        stdin.end()
                elif frame["op"] == "diff":
                    fields, patch = _answer_of(self._diff)
                    _send(connection, {"kind": "diff", **fields}, patch)
                else:
                    raise framing.WireError("not possible while a process runs")

        finished = self._commands.run(
            argv,
            cwd=self._folders.tree,
            env=env,
            timeout=timeout,
            on_output=send_output,
            client=connection,
            streams=Streams(stdin, errors.add, on_client),
        )
        text, _ = errors.text()
        return {"exit_code": finished.exit_code, "truncated": left < 0}, text.encode("utf-8", "replace")

    def _output_limit(self, header: dict[str, Any]) -> int:
        """Return how many characters the client wants in the answer, up to the workspace's limit."""
        asked = header.get("output_limit")
        most = self._options.output_limit
        return min(asked, most) if type(asked) is int and asked > 0 else most


def _answer_of(work: Callable[[], tuple[dict[str, Any], bytes]]) -> tuple[dict[str, Any], bytes]:
    """Return the fields and the body of an answer, or an answer that says why the work failed."""
    try:
        fields, body = work()
    except RequestError as error:
        return {"ok": False}, str(error)[:4000].encode("utf-8", "replace")
    except (OSError, ValueError) as error:  # e.g. the disk is full, a path that cannot be encoded
        return {"ok": False}, f"The workspace cannot do that: {error}".encode("utf-8", "replace")[:4000]
    except MemoryError:
        return {"ok": False}, b"The workspace does not have enough memory for that."
    return {"ok": True, **fields}, body


def _send(connection: socket.socket, fields: dict[str, Any], body: bytes) -> None:
    connection.sendall(framing.encode_header(fields, len(body)))
    connection.sendall(body)


def _drain(connection: socket.socket) -> None:
    """Read what the client sends until it disconnects: if we closed before, it would lose the answer."""
    connection.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + _TRANSFER_SECONDS
    while connection.recv(framing.CHUNK) and time.monotonic() < deadline:
        pass


def _process_of(body: bytes) -> tuple[list[str], dict[str, str], dict[str, bytes]]:
    """Return the arguments, variables and files of a process.

    Raises:
        RequestError: the request lacks them, or they are not valid.
    """
    try:
        fields = json.loads(body)
        argv, env, contents = fields["argv"], fields["env"], fields["files"]
        texts = [*argv, *env, *env.values(), *contents]
        files_ = {path: base64.b64decode(content, validate=True) for path, content in contents.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        texts, argv = [], []
    if not argv or not all(isinstance(text, str) for text in texts):
        raise RequestError("The process has no command, or its variables or files are not valid.")
    return argv, env, files_


def _received(carrier: socket.socket) -> socket.socket | None:
    """Return the socket that was passed over another one; `None` at its end, or if it got something else."""
    try:
        _, descriptors, _, _ = socket.recv_fds(carrier, 1, 1)
        return socket.socket(fileno=descriptors[0]) if descriptors else None
    except OSError:
        return None


def _entries(folder: str) -> list[str]:
    """Return the paths of what is in a folder; nothing if there is no such folder."""
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _string(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{name} is missing.")
    return value


def _number(header: dict[str, Any], name: str) -> int:
    value = header.get(name)
    if type(value) is not int or value < 0:
        raise RequestError(f"{name} is not a number.")
    return value


def _receive_file(connection: socket.socket, path: Path, length: int) -> None:
    """Write exactly `length` bytes to a new file.

    Raises:
        framing.WireError: the client stopped sending.
    """
    with path.open("xb") as file:
        while length:
            data = connection.recv(min(length, 16 * framing.CHUNK))
            if not data:
                raise framing.WireError("the seed was cut short")
            length -= len(data)
            file.write(data)


def _receive(connection: socket.socket, length: int) -> bytes:
    """Receive exactly `length` bytes.

    Raises:
        framing.WireError: the client stopped sending.
    """
    deadline = time.monotonic() + _TRANSFER_SECONDS
    received = bytearray()
    while len(received) < length:
        data = connection.recv(min(length - len(received), framing.CHUNK))
        if not data or time.monotonic() > deadline:
            raise framing.WireError("the request was cut short")
        received += data
    return bytes(received)
