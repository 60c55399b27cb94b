"""The newest lines of a text that grows, within a limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class LastLines:
    """Keeps the newest lines that together are at most `limit` characters, their ends included."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: deque[str] = deque()
        self._length = 0
        self._left_out = False

    def add(self, lines: Iterable[str]) -> None:
        """Take more lines; the oldest go."""
        for line in lines:
            self._lines.append(line)
            self._length += len(line) + 1
            while self._length > self._limit:
                self._length -= len(self._lines.popleft()) + 1
                self._left_out = True

    def text(self) -> str:
        """The lines, with a word on those that are gone."""
        return "\n".join(["(earlier steps left out)"] * self._left_out + [*self._lines])
