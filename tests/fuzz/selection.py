"""Chooses a few inputs that together reach as many lines of the programs as possible."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

_SOURCES = "/src/coding_agent_"
_FOUND = re.compile(r"[0-9a-f]{12}")
"""The name of a file that was found; a file with another name was written by a person and stays."""

Steps = frozenset[tuple[str, int, int]]
"""Pairs of lines, one executed after the other, with the name of their file."""


def keep(target: Callable[[bytes], bool], found: Path, corpus: Path, most: int, largest: int) -> None:
    """Make a corpus of so many files at most: those that people wrote, and the best of the others.

    Args:
        found: a folder of inputs that the fuzzer kept.
        largest: the most bytes of an input.
    """
    written = {path for path in corpus.iterdir() if not _FOUND.fullmatch(path.name)}
    others = {path.read_bytes() for path in {*corpus.iterdir(), *found.iterdir()} - written}
    seen: set[tuple[str, int, int]] = set()
    for path in written:
        seen |= _steps(target, path.read_bytes())
    inputs = sorted((data for data in others if len(data) <= largest), key=lambda data: (len(data), data))
    chosen = _best({data: _steps(target, data) for data in inputs}, seen, most - len(written))
    for path in set(corpus.iterdir()) - written:
        path.unlink()
    for data in chosen:
        (corpus / sha256(data).hexdigest()[:12]).write_bytes(data)


def _best(reached: dict[bytes, Steps], seen: set[tuple[str, int, int]], most: int) -> Iterable[bytes]:
    for _ in range(most):
        best = max(reached, key=lambda data: len(reached[data] - seen), default=None)
        if best is None or reached[best] <= seen:
            return
        seen |= reached[best]
        yield best


def _steps(target: Callable[[bytes], bool], data: bytes) -> Steps:
    steps: set[tuple[str, int, int]] = set()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name, last = frame.f_code.co_filename, frame.f_lineno
        if _SOURCES not in name:
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                steps.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return frozenset(steps)
