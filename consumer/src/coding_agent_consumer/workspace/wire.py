"""The frames that cross the workspace's socket: a length, a JSON header, then raw bytes.

    4 bytes   length of the header, big-endian
    header    a JSON object; `body` in it is the number of bytes that follow
    body      raw bytes: a bundle, a patch, a file's text, a command

One connection carries one request and its one answer. Both ends bound what they accept; the standard library
alone is used, because the serving side is copied into images with the user's toolchain and nothing of ours.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

MAX_HEADER = 64 * 1024
"""Bytes of a header."""
MAX_TEXT = 16 * 1024 * 1024
"""Bytes of a file's text, a command or a listing."""
MAX_PATCH = 64 * 1024 * 1024
"""Bytes of a patch."""
MAX_BUNDLE = 4 * 1024 * 1024 * 1024
"""Bytes of a bundle."""
CHUNK = 64 * 1024
"""Bytes that are read or written at once."""

PREFIX = struct.Struct(">I")

BODY_LIMITS: Mapping[str, int] = {
    "seed": MAX_BUNDLE,
    "diff": 0,
    "run": 1024 * 1024,
    "read_file": 0,
    "write_file": MAX_TEXT,
    "edit_file": MAX_TEXT,
    "list_files": 0,
    "search": 64 * 1024,
    "ping": 0,
}
"""The operations, with the bytes that a request's body may have."""


class WireError(Exception):
    """What came over the socket is not a frame, or is larger than allowed."""


def encode_header(header: Mapping[str, Any], body: int) -> bytes:
    """The bytes before a body of so many bytes."""
    text = json.dumps({**header, "body": body}, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER:
        raise WireError("the header is too large")
    return PREFIX.pack(len(text)) + text


def header_length(prefix: bytes) -> int:
    """How many bytes of header follow.

    Raises:
        WireError: more than allowed.
    """
    (length,) = PREFIX.unpack(prefix)
    if not 0 < length <= MAX_HEADER:
        raise WireError("the header is too large")
    return int(length)


def decode_header(text: bytes, limit: int | None = None) -> tuple[dict[str, Any], int]:
    """The header's fields, and how many bytes of body follow.

    Args:
        text: JSON.
        limit: bytes that the body may have; `None`: what `BODY_LIMITS` says for the header's `op`.

    Raises:
        WireError: not a header, an unknown operation, or too large a body.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError("the header is not JSON") from error
    if not isinstance(header, dict):
        raise WireError("the header is not a JSON object")
    body = header.pop("body", None)
    if type(body) is not int or body < 0:
        raise WireError("the header names no length of the body")
    if limit is None:
        operation = header.get("op")
        if not isinstance(operation, str) or operation not in BODY_LIMITS:
            raise WireError("unknown operation")
        limit = BODY_LIMITS[operation]
    if body > limit:
        raise WireError(f"the body has {body} bytes; at most {limit} are taken")
    return header, body
