"""Reads the fenced blocks of a Markdown page, and the comments that say how tests use each of them.

The comment is in the line above the block, and readers do not see it:

    <!-- run: checkout -->       run it in this environment; with ` exit=N`, N must be its exit status
    <!-- prints -->              the output of the block before it; `…` stands for anything within a line, and
                                 a line that is only `…` for any number of lines
    <!-- file: NAME -->          a file that later blocks of the page use
    <!-- add: NAME -->           values of the chart, to be added to such a file
    <!-- config -->              settings, as in config.yaml
    <!-- values -->              values of the chart
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_MARK = re.compile(
    r"^\s*<!-- (?P<word>run|prints|file|add|config|values)"
    r"(?:: (?P<what>\S+))?(?: exit=(?P<exit>\d+))? -->\s*$"
)
_FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,})(?P<info>.*)$")
SHELLS = frozenset({"sh", "bash", "shell", "console"})


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        word: the word in its comment: `run`, `prints`, `file`, `add`, `config`, `values`, or empty.
        line: the line of its opening fence, from 1.
        language: the first word after the fence; may be empty.
        what: the text after the word: the environment in which to run it, or the name of the file.
        status: the exit status that a run must have.
    """

    page: Path
    line: int
    language: str
    text: str
    word: str = ""
    what: str = ""
    status: int = 0


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: a fence is not closed; names page and line.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        end = _closing(lines, at + 1, fence["ticks"])
        if end is None:
            raise ValueError(f"{page}, line {at + 1}: the block is not closed")
        indent = len(fence["indent"])
        text = "\n".join(line[indent:] for line in lines[at + 1 : end]) + "\n"
        info = fence["info"].strip()
        found.append(_block(page, at + 1, info.split()[0] if info else "", text, lines[at - 1] if at else ""))
        at = end + 1
    return found


def _closing(lines: list[str], start: int, ticks: str) -> int | None:
    for number in range(start, len(lines)):
        if lines[number].strip() == ticks:
            return number
    return None


def _block(page: Path, line: int, language: str, text: str, above: str) -> Block:
    mark = _MARK.match(above)
    if mark is None:
        return Block(page, line, language, text)
    return Block(page, line, language, text, mark["word"], mark["what"] or "", int(mark["exit"] or 0))


def script(block: Block) -> str:
    """Return the commands of a shell block; in a `console` block, these are the lines after `$ `."""
    if block.language != "console":
        return block.text
    commands: list[str] = []
    continued = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
        elif continued:
            commands.append(line)
        else:
            continue
        continued = commands[-1].endswith("\\")
    return "\n".join(commands) + "\n"


def matches(expected: str, printed: str) -> bool:
    """Whether this was printed. Several blanks count as one, because columns grow with their contents."""
    pattern = []
    for line in expected.strip().splitlines():
        if line.strip() == "…":
            pattern.append(r"(?:[^\n]*\n)*?")
        else:
            parts = [_blanks(part) for part in line.rstrip().split("…")]
            pattern.append("[^\n]*?".join(parts) + "[ \t]*\n")
    return re.fullmatch("".join(pattern), printed.strip("\n") + "\n") is not None


def _blanks(text: str) -> str:
    return r"[ \t]+".join(re.escape(part) for part in re.split(r"[ \t]+", text))
