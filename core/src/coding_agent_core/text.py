"""Shortening and cleaning foreign text, and a validation's first problem as a sentence. Pure."""

from __future__ import annotations

import re

from pydantic import ValidationError

_OTHER_SPACES = re.compile(r"[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def first_problem(error: ValidationError) -> str:
    """The first wrong field and its problem, without the value: `run: Field required`."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def printable(text: str) -> str:
    """Without control characters except line ends, because they could control a terminal."""
    spaced = _OTHER_SPACES.sub(" ", text)
    return "".join(char for char in spaced if char == "\n" or char.isprintable()).strip()


def last_lines(text: str, length: int) -> str:
    """The printable end of a text, at most `length` characters, from the start of a line if one is near."""
    plain = printable(text)
    if len(plain) <= length:
        return plain
    end = plain[len(plain) - length + 1 :]
    first, found, rest = end.partition("\n")
    return f"…{rest if found and len(first) < length // 2 else end}"


def beginning(text: str, length: int) -> str:
    """At most `length` characters, and `…` if there were more."""
    return text if len(text) <= length else text[:length] + ("…" if length else "")


def one_line(text: str, length: int) -> str:
    """The text on one line: at most `length` characters, and `…` if there were more."""
    return beginning(" ".join(text.split()), length)
