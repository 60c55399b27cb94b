"""The workspace's server: it takes one request at a time from the socket and works in the tree."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
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
class CommandLimits:
    command_timeout: float
    """Seconds for one command."""
    output_limit: int
    """Characters of output in one answer."""


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


class Server:
    """Answers requests one after the other, so no command runs beside another request."""

    def __init__(
        self,
        folders: WorkspaceFolders,
        limits: CommandLimits,
        search_path: list[str],
        keep: tuple[str, ...] = (),
        git: str = "git",
    ) -> None:
        self._folders = folders
        self._limits = limits
        self._commands = CommandRunner()
        self._env = command_environment(folders, usable_path(search_path), dict(os.environ), keep)
        self._tree = Tree(folders, self._commands, self._env, git)
        instance = os.urandom(8).hex()
        self._shell = shutil.which("bash", path=self._env["PATH"]) or "/bin/sh"
        self._operations: dict[str, Callable[[dict[str, Any], bytes, socket.socket], _Answer]] = {
            "diff": lambda *_: _Answer({}, self._tree.diff()),
            "run": self._run,
            "read_file": self._read_file,
            "write_file": self._write_file,
            "edit_file": self._edit_file,
            "list_files": lambda header, *_: _text(
                self._tree.list_files(_string(header, "path"), self._output_limit(header))
            ),
            "search": self._search,
            "ping": lambda *_: _Answer({"instance": instance}),
        }

    def serve(self, listener: socket.socket) -> None:
        listener.setblocking(True)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_TRANSFER_SECONDS)
                try:
                    self._exchange(connection)
                except (OSError, wire.WireError, AbandonedError):
                    continue  # the client is gone or its request is not valid: nobody to answer

    def _exchange(self, connection: socket.socket) -> None:
        prefix = _receive(connection, wire.PREFIX.size)
        header, length = wire.decode_header(_receive(connection, wire.header_length(prefix)))
        operation = header["op"]
        try:
            if operation == "seed":
                answer = self._seed(header, length, connection)
            else:
                answer = self._operations[operation](header, _receive(connection, length), connection)
            fields: dict[str, Any] = {"ok": True, **answer.fields}
            body = answer.body
        except RefusalError as error:
            fields, body = {"ok": False}, str(error)[:4000].encode("utf-8", "replace")
        except (OSError, ValueError) as error:  # e.g. the disk is full, a path that cannot be encoded
            fields, body = (
                {"ok": False},
                f"The workspace cannot do that: {error}".encode("utf-8", "replace")[:4000],
            )
        except MemoryError:
            fields, body = {"ok": False}, b"The workspace does not have enough memory for that."
        connection.settimeout(_TRANSFER_SECONDS)
        connection.sendall(wire.encode_header(fields, len(body)))
        connection.sendall(body)

    def _seed(self, header: dict[str, Any], length: int, connection: socket.socket) -> _Answer:
        descriptor, name = tempfile.mkstemp(prefix="seed-", dir=self._folders.root)
        try:
            with os.fdopen(descriptor, "wb") as file:
                while length:
                    data = connection.recv(min(length, wire.CHUNK))
                    if not data:
                        raise wire.WireError("the bundle was cut short")
                    length -= len(data)
                    file.write(data)
            self._tree.seed(Path(name), _string(header, "branch"))
        finally:
            os.unlink(name)
        return _Answer({})

    def _run(self, header: dict[str, Any], body: bytes, connection: socket.socket) -> _Answer:
        asked = header.get("timeout")
        most = self._limits.command_timeout
        timeout = min(float(asked), most) if isinstance(asked, int | float) and asked > 0 else most
        output = BoundedOutput(self._output_limit(header))
        if b"\0" in body:
            raise RefusalError("A command cannot contain a NUL character.")
        try:
            self._folders.make()  # a command can remove the tree itself
            finished = self._commands.run(
                [self._shell, "-c", os.fsdecode(body)],
                cwd=self._folders.tree,
                env=self._env,
                timeout=timeout,
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
        return _Answer(fields, text.encode("utf-8", "replace"))

    def _read_file(self, header: dict[str, Any], _body: bytes, _connection: socket.socket) -> _Answer:
        count = header.get("line_count")
        lines = files.read_lines(
            self._folders.tree,
            _string(header, "path"),
            _number(header, "start_line"),
            None if count is None else _number(header, "line_count"),
            self._output_limit(header),
        )
        return _text(lines)

    def _write_file(self, header: dict[str, Any], body: bytes, _connection: socket.socket) -> _Answer:
        files.write(self._folders.tree, _string(header, "path"), body)
        return _Answer({})

    def _edit_file(self, header: dict[str, Any], body: bytes, _connection: socket.socket) -> _Answer:
        split = _number(header, "old_length")
        files.edit(self._folders.tree, _string(header, "path"), body[:split], body[split:])
        return _Answer({})

    def _search(self, header: dict[str, Any], body: bytes, _connection: socket.socket) -> _Answer:
        pattern = body.decode("utf-8", "surrogateescape")
        if not pattern or "\0" in pattern:
            raise RefusalError("Give a regular expression to search for.")
        return _text(self._tree.search(pattern, _string(header, "path"), self._output_limit(header)))

    def _output_limit(self, header: dict[str, Any]) -> int:
        """Characters that the client wants in the answer, up to the workspace's limit."""
        asked = header.get("output_limit")
        most = self._limits.output_limit
        return min(asked, most) if type(asked) is int and asked > 0 else most


@dataclass(frozen=True)
class _Answer:
    fields: dict[str, Any]
    body: bytes = b""


def _text(text: str) -> _Answer:
    return _Answer({}, text.encode("utf-8", "replace"))


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
