"""A command's output in bounded memory: its head and its tail, whatever it prints."""

from __future__ import annotations

_BYTES_PER_CHARACTER = 4
"""The most that UTF-8 takes for one character."""


class BoundedOutput:
    """Takes bytes as they come and keeps the first and last of them.

    Args:
        limit: characters of `text()`, the note in the middle not counted.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._half = max(1, limit // 2) * _BYTES_PER_CHARACTER
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self._total += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail += data[-self._half :]
            if len(self._tail) > 2 * self._half:  # trimmed seldom, so that a flood costs little
                del self._tail[: -self._half]

    def text(self) -> tuple[str, bool]:
        """The text, and whether something was left out. What is not UTF-8 shows as U+FFFD."""
        tail = bytes(self._tail[-self._half :])
        lost = self._total - len(self._head) - len(tail)
        if lost <= 0:
            return cut_middle((bytes(self._head) + tail).decode("utf-8", "replace"), self._limit)
        half = max(1, self._limit // 2)
        head_text = _drop_partial_end(bytes(self._head)).decode("utf-8", "replace")[:half]
        tail_text = _drop_partial_start(tail).decode("utf-8", "replace")[-half:]
        # Characters between the two are not known any more, bytes are.
        left_out = self._total - len(head_text.encode()) - len(tail_text.encode())
        return f"{head_text}\n[… about {left_out} bytes left out …]\n{tail_text}", True


def cut_middle(text: str, limit: int) -> tuple[str, bool]:
    """The text with its middle left out beyond so many characters, and whether that was done."""
    if len(text) <= limit:
        return text, False
    half = max(1, limit // 2)
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}", True


def cut_end(text: str, limit: int) -> str:
    """The text's beginning, with a mark if something was cut."""
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
