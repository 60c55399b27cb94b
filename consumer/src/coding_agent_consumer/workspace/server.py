"""The workspace's server: it takes one request at a time from the socket and works in the tree."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coding_agent_consumer.workspace import files, wire
from coding_agent_consumer.workspace.files import WorkspaceFolders, command_environment, usable_path
from coding_agent_consumer.workspace.processes import AbandonedError, BoundedOutput, CommandRunner
from coding_agent_consumer.workspace.tree import Tree
from coding_agent_consumer.workspace.wire import RefusalError

_TRANSFER_SECONDS = 120.0
"""For a client that stops sending in the middle of a frame."""


@dataclass(frozen=True)
class ServerOptions:
    """What the command line says about the server.

    Attributes:
        command_timeout: seconds for one command.
        output_limit: characters of output in one answer.
        search_path: folders of the commands' PATH.
        keep: variables that commands inherit, `*`: all.
        git: the git to use.
    """

    command_timeout: float
    output_limit: int
    search_path: tuple[str, ...]
    keep: tuple[str, ...]
    git: str


def listen(path: Path, *, group: bool = False) -> socket.socket:
    """A listening socket for this user only, or for its group too."""
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


class WorkspaceServer:
    """Answers requests one after the other, so no command runs beside another request."""

    def __init__(self, folders: WorkspaceFolders, options: ServerOptions) -> None:
        self._folders = folders
        self._options = options
        self._commands = CommandRunner()
        self._env = command_environment(
            folders, usable_path(options.search_path), dict(os.environ), options.keep
        )
        self._tree = Tree(folders, self._commands, self._env, options.git)
        self._shell = shutil.which("bash", path=self._env["PATH"]) or "/bin/sh"

    def serve(self, sessions: socket.socket) -> None:
        """Answer the requests of the sessions that arrive over `sessions`, until that is closed.

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
                        self._serve(received)
                    elif carrier is sessions:
                        return
                    else:
                        selector.unregister(carrier)
                        carrier.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_TRANSFER_SECONDS)
            # The client is gone or its request is not valid: nobody to answer.
            with contextlib.suppress(OSError, wire.WireError, AbandonedError):
                self._exchange(connection)

    def _exchange(self, connection: socket.socket) -> None:
        prefix = _receive(connection, wire.PREFIX.size)
        header, length = wire.decode_header(_receive(connection, wire.header_length(prefix)))
        try:
            fields, body = self._answer(header, length, connection)
            fields = {"ok": True, **fields}
        except RefusalError as error:
            fields, body = {"ok": False}, str(error)[:4000].encode("utf-8", "replace")
        except (OSError, ValueError) as error:  # e.g. the disk is full, a path that cannot be encoded
            reason = f"The workspace cannot do that: {error}"
            fields, body = {"ok": False}, reason.encode("utf-8", "replace")[:4000]
        except MemoryError:
            fields, body = {"ok": False}, b"The workspace does not have enough memory for that."
        connection.settimeout(_TRANSFER_SECONDS)
        connection.sendall(wire.encode_header(fields, len(body)))
        connection.sendall(body)

    def _answer(
        self, header: dict[str, Any], length: int, connection: socket.socket
    ) -> tuple[dict[str, Any], bytes]:
        """Do what the request says; the fields and the body of its answer."""
        if header["op"] == "seed":
            self._seed(_string(header, "branch"), length, connection)
            return {}, b""
        body = _receive(connection, length)
        match header["op"]:
            case "ping":
                return {}, b""
            case "diff":
                return {}, self._tree.diff(finished=header.get("finished") is not False)
            case "run":
                return self._run(header, body, connection)
            case "list_files":
                text = self._tree.list_files(_string(header, "path"), self._output_limit(header))
            case "search":
                pattern = body.decode("utf-8", "surrogateescape")
                if not pattern or "\0" in pattern:
                    raise RefusalError("Give a regular expression to search for.")
                text = self._tree.search(pattern, _string(header, "path"), self._output_limit(header))
            case _:
                with files.deadline(files.FILE_SECONDS):
                    text = self._work_on_file(header, body)
        return {}, text.encode("utf-8", "replace")

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

    def _seed(self, branch: str, length: int, connection: socket.socket) -> None:
        descriptor, name = tempfile.mkstemp(prefix="seed-", dir=self._folders.root)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while length:
                    data = connection.recv(min(length, wire.CHUNK))
                    if not data:
                        raise wire.WireError("the bundle was cut short")
                    length -= len(data)
                    file.write(data)
            self._tree.seed(Path(name), branch)
        finally:
            os.unlink(name)

    def _run(
        self, header: dict[str, Any], body: bytes, connection: socket.socket
    ) -> tuple[dict[str, Any], bytes]:
        # More than the limit, and what is not a number, means the limit.
        timeout = wire.number(header.get("timeout"), most=self._options.command_timeout)
        output = BoundedOutput(self._output_limit(header))
        if b"\0" in body:
            raise RefusalError("A command cannot contain a NUL character.")
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
            raise RefusalError(f"The command cannot be started: {error.strerror}.") from error
        text, truncated = output.text()
        fields = {
            "exit_code": finished.exit_code,
            "truncated": truncated,
            "timed_out": finished.timed_out,
            "seconds": round(finished.seconds, 3),
        }
        return fields, text.encode("utf-8", "replace")

    def _output_limit(self, header: dict[str, Any]) -> int:
        """Characters that the client wants in the answer, up to the workspace's limit."""
        asked = header.get("output_limit")
        most = self._options.output_limit
        return min(asked, most) if type(asked) is int and asked > 0 else most


def _received(carrier: socket.socket) -> socket.socket | None:
    """The socket that was passed over another one; `None` at its end, or if something else arrived."""
    try:
        _, descriptors, _, _ = socket.recv_fds(carrier, 1, 1)
        return socket.socket(fileno=descriptors[0]) if descriptors else None
    except OSError:
        return None


def _string(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise RefusalError(f"{name} is missing.")
    return value


def _number(header: dict[str, Any], name: str) -> int:
    value = header.get(name)
    if type(value) is not int or value < 0:
        raise RefusalError(f"{name} is not a number.")
    return value


def _receive(connection: socket.socket, length: int) -> bytes:
    """Exactly `length` bytes.

    Raises:
        wire.WireError: the client stopped sending.
    """
    deadline = time.monotonic() + _TRANSFER_SECONDS
    received = bytearray()
    while len(received) < length:
        data = connection.recv(min(length - len(received), wire.CHUNK))
        if not data or time.monotonic() > deadline:
            raise wire.WireError("the request was cut short")
        received += data
    return bytes(received)
