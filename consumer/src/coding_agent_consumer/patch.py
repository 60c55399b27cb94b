"""What a workspace's patch unpacks to, before git reads it. Pure.

A git binary patch holds compressed data: 2 MiB of it can make git need 3 GiB. Its headers give the sizes
(git's apply.c, `parse_binary_hunk`; gitformat-pack(5) on deltas): `literal SIZE` is the size of the file,
`delta SIZE` the size of a delta, which begins with the sizes of the file before and after.
"""

from __future__ import annotations

import base64
import re
import string
import zlib

from coding_agent_core.errors import CodingAgentError

from coding_agent_consumer.workspace.wire import MAX_FILE, MAX_PATCH

MAX_UNPACKED = 128 * 1024 * 1024
"""Bytes of all binary files of a patch together, before and after: git holds them in memory at once."""
_MAX_DELTA_HEAD = 20
"""Bytes of two sizes at the start of a delta, seven bits in each byte."""
_LENGTHS = string.ascii_uppercase.encode() + string.ascii_lowercase.encode()
# Lines of text files start with a blank, `+`, `-` or a backslash, so a file cannot look like a header.
_BINARY = re.compile(rb"^(literal|delta) ([^\n]*)\n", re.MULTILINE)
_COPIED = re.compile(rb"^(?:copy|rename) (?:from|to) ", re.MULTILINE)
_FILE = re.compile(rb"^diff --git ([^\n]*)\n", re.MULTILINE)


class PatchRefusedError(CodingAgentError):
    """The workspace's patch does not apply, or touches what it must not."""


def require_bounded(patch: bytes) -> None:
    """Refuse a patch that git might need much memory for.

    Raises:
        PatchRefusedError: says which file is too large.
    """
    if len(patch) > MAX_PATCH:
        raise PatchRefusedError(f"The change is larger than {MAX_PATCH // 2**20} MiB.")
    if _COPIED.search(patch):
        # A line for each copy of a large file. The workspace's own patches have none.
        raise PatchRefusedError("The change cannot be taken over: its patch copies or renames files.")
    total = 0
    for header in _BINARY.finditer(patch):
        size = _unpacked_size(patch, header)
        if size is None:
            raise PatchRefusedError("The change cannot be taken over: its patch is not a git patch.")
        if size > MAX_FILE:
            raise PatchRefusedError(
                f"{_file_at(patch, header.start())} has {size / 2**20:.0f} MiB, before or after the change; "
                f"a changed binary file may have {MAX_FILE // 2**20} MiB."
            )
        total += size
    if total > MAX_UNPACKED:
        raise PatchRefusedError(
            f"The change has {total / 2**20:.0f} MiB of binary files, counted before and after it; "
            f"it may have {MAX_UNPACKED // 2**20} MiB."
        )


def _unpacked_size(patch: bytes, header: re.Match[bytes]) -> int | None:
    """Bytes that git needs for the data below a header, `None` if that is not data."""
    if not re.fullmatch(rb"[0-9]{1,12}", header[2]):
        return None
    size = int(header[2])
    if header[1] == b"literal":
        return size
    head = _start_of_data(patch, header.end())
    sizes = _delta_sizes(head) if head is not None else None
    return None if sizes is None else size + max(sizes)


def _start_of_data(patch: bytes, at: int) -> bytes | None:
    """The first bytes of the compressed data that starts at `at`; `None` if it is not such data."""
    unpacker = zlib.decompressobj()
    head = b""
    while len(head) < _MAX_DELTA_HEAD and not unpacker.eof:
        end = patch.find(b"\n", at)
        if end <= at:
            break
        try:
            packed = unpacker.unconsumed_tail + _decoded(patch[at:end])
            head += unpacker.decompress(packed, _MAX_DELTA_HEAD - len(head))
        except (ValueError, zlib.error):
            return None
        at = end + 1
    return head


def _decoded(line: bytes) -> bytes:
    """A line of binary data: the number of bytes as a letter, then groups of five characters for four bytes.

    Raises:
        ValueError: it is not such a line.
    """
    length = _LENGTHS.find(line[:1]) + 1
    groups, rest = divmod(len(line) - 1, 5)
    if rest or not 4 * (groups - 1) < length <= 4 * groups:
        raise ValueError("not a line of binary data")
    return base64.b85decode(line[1:])[:length]


def _delta_sizes(head: bytes) -> tuple[int, int] | None:
    """The sizes of the file before and after a delta."""
    sizes = []
    size = shift = 0
    for byte in head:
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            sizes.append(size)
            size = shift = 0
        if len(sizes) == 2:
            return sizes[0], sizes[1]
    return None


def _file_at(patch: bytes, position: int) -> str:
    """The name in the header of the file whose data is at `position`."""
    start = patch.rfind(b"\ndiff --git ", 0, position) + 1
    header = _FILE.match(patch, start)
    if header is None:
        return "A file"
    name = header[1][: len(header[1]) // 2].decode("utf-8", "replace")  # `a/NAME b/NAME`
    return name.removeprefix('"').removeprefix("a/")[:200]
