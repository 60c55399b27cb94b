"""The frames that cross the workspace's socket: a length, a JSON header, then raw bytes.

    4 bytes   length of the header, big-endian
    header    a JSON object; `body` in it is the number of bytes that follow
    body      raw bytes: packs, a patch, a file's text, a command

One connection carries one request and its one answer. For a process that streams, it also carries `input` and
`diff` from the client, and `kind: output` and `kind: diff` from the workspace, before the answer. Both sides
limit what they accept. Only the standard library is used, because the workspace program is copied into images
with the user's toolchain.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATE = "gate"
"""Name of the socket to which a consumer stays connected during a task."""
WORKSPACE = "workspace"
"""Name of the socket of the task's workspace."""
END_SECONDS = 40.0
"""Killing a command's processes may take this long: after a fork bomb, a scan of /proc can take seconds."""
MAX_HEADER = 64 * 1024
"""The largest header, in bytes."""
MAX_TEXT = 16 * 1024 * 1024
"""The longest text of a file, a command or a listing, in bytes."""
MAX_PATCH = 64 * 1024 * 1024
"""The largest patch, in bytes."""
MAX_FILE = 32 * 1024 * 1024
"""The largest file that a patch may create or change: 1 MB of a patch can unpack to gigabytes of zeros."""
MAX_UNPACKED = 128 * 1024 * 1024
"""The most bytes of a patch's binary files together, before and after it: git has all in memory."""
MAX_SEED = 4 * 1024 * 1024 * 1024
"""The most bytes of a seed's packs and their indexes."""
MAX_STREAM = 64 * 1024 * 1024
"""The most bytes of output of a process that streams."""
MAX_PROCESS_SECONDS = 7 * 86400.0
"""The longest time that a process that streams may have."""
CHUNK = 64 * 1024
"""Bytes read or written at once."""

PREFIX = struct.Struct(">I")

BODY_LIMITS: Mapping[str, int] = {
    "seed": MAX_SEED,
    "diff": 0,
    "run": 1024 * 1024,
    "start": MAX_TEXT,
    "input": MAX_TEXT,
    "read_file": 0,
    "write_file": MAX_TEXT,
    "edit_file": MAX_TEXT,
    "list_files": 0,
    "search": 64 * 1024,
    "ping": 0,
}
"""The operations, each with the most bytes of a request's body."""


_PACK_FILE = re.compile(r"pack-[0-9a-f]{40}\.(?:pack|idx)")
MAX_NAMES = 20
"""The most files that an answer names."""
MAX_NAME = 200
"""The most characters of one name."""


@dataclass(frozen=True)
class Seed:
    """A commit from which a workspace is created, and packs with all that it needs.

    Git on the agent's side has checked and indexed the packs. To index them again in the workspace would take
    as long again, so their indexes are sent too.

    Attributes:
        branch: the name of the branch that is checked out, at the commit.
        packs: files named `pack-ID.pack`, each beside its index, `pack-ID.idx`.
        folders: the folders to check out, besides the files at the root; empty: all.
    """

    branch: str
    commit: str
    packs: tuple[Path, ...]
    folders: tuple[str, ...] = ()

    def files(self) -> list[tuple[Path, int]]:
        """Return the files to send, in their order, with their sizes.

        Raises:
            OSError: there is no such file.
        """
        paths = [path for pack in self.packs for path in (pack, pack.with_suffix(".idx"))]
        return [(path, path.stat().st_size) for path in paths]


def pack_files(header: Mapping[str, Any], length: int) -> list[tuple[str, int]]:
    """Return the names and sizes of the files that a seed's body consists of.

    Raises:
        RequestError: the header does not name the files of packs, or not exactly those in the body.
    """
    listed = header.get("files")
    files: list[tuple[str, int]] = []
    for entry in listed if isinstance(listed, list) else []:
        name, size = entry if isinstance(entry, list) and len(entry) == 2 else ("", 0)
        if not isinstance(name, str) or not _PACK_FILE.fullmatch(name) or type(size) is not int or size < 0:
            raise RequestError("The seed names a file that is not a pack's.")
        files.append((name, size))
    if not files or sum(size for _, size in files) != length:
        raise RequestError("The seed does not consist of the packs that it names.")
    return files


@dataclass(frozen=True)
class Patch:
    """All changes since a workspace was seeded.

    Attributes:
        data: a binary git patch (`git diff --binary --full-index`), at most 64 MiB; empty if nothing changed.
        left_out: names of the files that are too large, each with its size.
        source: the branch, stash or worktree in which the work was found, if it was not in the tree.
    """

    data: bytes = b""
    left_out: tuple[str, ...] = ()
    source: str = ""

    def fields(self) -> dict[str, Any]:
        """Return the fields of an answer with this patch; the data is the answer's body."""
        return {"left_out": self.left_out, "source": self.source}

    @staticmethod
    def of(fields: Mapping[str, Any], data: bytes) -> Patch:
        """Read a patch from an answer, which may have any content."""
        names, source = fields.get("left_out"), fields.get("source")
        found = names if isinstance(names, list) else []
        return Patch(
            data,
            tuple(_one_line(name) for name in found[:MAX_NAMES] if isinstance(name, str)),
            _one_line(source) if isinstance(source, str) else "",
        )

    @property
    def too_large(self) -> str:
        """A text that says which files are left out; empty if none are."""
        if not self.left_out:
            return ""
        return (
            f"Files are too large and were left out: {', '.join(self.left_out)}. A change may have"
            f" {MAX_PATCH // 2**20} MiB, and each of its files {MAX_FILE // 2**20} MiB."
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_NAME]


class WireError(Exception):
    """The received data is not a frame, or exceeds a limit."""


def encode_header(header: Mapping[str, Any], body: int) -> bytes:
    """Encode the header for a body of `body` bytes."""
    text = json.dumps({**header, "body": body}, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER:
        raise WireError("the header is too large")
    return PREFIX.pack(len(text)) + text


def header_length(prefix: bytes) -> int:
    """Return the length in bytes of the header that follows.

    Args:
        prefix: the first four bytes of a frame.

    Raises:
        WireError: the length is 0 or more than `MAX_HEADER`.
    """
    (length,) = PREFIX.unpack(prefix)
    if not 0 < length <= MAX_HEADER:
        raise WireError("the header is too large")
    return int(length)


def decode_header(text: bytes, limit: int | None = None) -> tuple[dict[str, Any], int]:
    """Return the header's fields, and the length of the body that follows.

    Args:
        text: the header as JSON.
        limit: the most bytes of the body; `None`: the limit of the header's `op`.

    Raises:
        WireError: the header is not valid, the operation is unknown, or the body is too large.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise WireError("the header is not a JSON object")
    body = header.pop("body", None)
    if type(body) is not int or body < 0:
        raise WireError("the header does not give the length of the body")
    if limit is None:
        operation = header.get("op")
        if not isinstance(operation, str) or operation not in BODY_LIMITS:
            raise WireError("unknown operation")
        limit = BODY_LIMITS[operation]
    if body > limit:
        raise WireError(f"the body has {body} bytes; the limit is {limit}")
    return header, body


class FrameReader:
    """Takes complete requests out of a stream of bytes.

    Args:
        limit: the most bytes of all bodies together.
    """

    def __init__(self, limit: int) -> None:
        self._received = bytearray()
        self._left = limit

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield the requests that are complete now.

        Raises:
            WireError: a request is not valid, or all requests together are too large.
        """
        self._received += data
        while len(self._received) >= PREFIX.size:
            start = PREFIX.size + header_length(bytes(self._received[: PREFIX.size]))
            if len(self._received) < start:
                return
            header, length = decode_header(bytes(self._received[PREFIX.size : start]))
            if length > self._left:
                raise WireError("the input is too large")
            if len(self._received) < start + length:
                return
            self._left -= length
            body = bytes(self._received[start : start + length])
            del self._received[: start + length]
            yield header, body


def number(value: object, *, most: float) -> float | None:
    """Return a number from 0 to `most`; `None` if the value is something else.

    JSON can have numbers that do not fit a float (`1e400` written out), NaN and infinities.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    return float(value)


class RequestError(Exception):
    """The request cannot be done; the message is a sentence for the model."""
