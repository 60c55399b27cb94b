"""Cutting text: a command's output in bounded memory, and texts that are too long."""

from __future__ import annotations

_BYTES_PER_CHARACTER = 4
"""Most bytes of one character in UTF-8."""


class BoundedOutput:
    """Keeps the first and the last bytes of a stream.

    Args:
        limit: characters of `text()`, without the note in the middle.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = max(1, limit // 2) * _BYTES_PER_CHARACTER
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data[-self._half :]
            if len(self._tail) > 2 * self._half:  # trimmed rarely, so that a flood costs little
                del self._tail[: -self._half]

    def text(self) -> tuple[str, bool]:
        """The text, and whether it was cut. Bytes that are not UTF-8 become U+FFFD."""
        tail = bytes(self._tail[-self._half :])
        lost = self._total - len(self._head) - len(tail)
        if lost <= 0:
            return cut_middle((bytes(self._head) + tail).decode("utf-8", "replace"), self._limit)
        half = max(1, self._limit // 2)
        head_text = _drop_partial_end(bytes(self._head)).decode("utf-8", "replace")[:half]
        tail_text = _drop_partial_start(tail).decode("utf-8", "replace")[-half:]
        # The bytes between the two were counted, but not their characters.
        left_out = self._total - len(head_text.encode()) - len(tail_text.encode())
        return f"{head_text}\n[… about {left_out} bytes omitted …]\n{tail_text}", True


def cut_middle(text: str, limit: int) -> tuple[str, bool]:
    """The text without its middle if it has more than `limit` characters, and whether it was cut."""
    if len(text) <= limit:
        return text, False
    half = max(1, limit // 2)
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters omitted …]\n{text[-half:]}", True


def cut_end(text: str, limit: int) -> str:
    """The first `limit` characters, with a mark if the text was cut."""
    return text if len(text) <= limit else text[:limit] + "…"


def _drop_partial_end(data: bytes) -> bytes:
    for back in range(1, min(_BYTES_PER_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:  # a continuation byte
            continue
        width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return data[:-back] if width > back else data
    return data


def _drop_partial_start(data: bytes) -> bytes:
    skip = 0
    while skip < min(_BYTES_PER_CHARACTER - 1, len(data)) and data[skip] & 0xC0 == 0x80:
        skip += 1
    return data[skip:]
