"""Finds the errors in a check's log. Pure.

The errors are what two runs of a check have in common if they failed for the same reason, so progress, times
of tests and the set-up of the job do not belong to them.
"""

from __future__ import annotations

import re

from coding_agent_core.forge.changes import ERRORS_LIMIT
from coding_agent_core.platforms.text import last_lines

_ERROR = re.compile(
    r"\berror|errors?\b|\bfail(?:s|ed|ure|ures|ing)?\b|exception|traceback|\bpanic|\bassert|\bfatal\b"
    r"|\bundefined\b|\bcannot\b|not found|no such|^\s*E  |##\[error\]|[✗✕✘]",
    re.IGNORECASE,
)
"""Matches the lines with which compilers, linters and test runners name an error."""
_NONE = re.compile(r"\b(?:0|no) (?:errors?|fail(?:ed|ures?)?)\b", re.IGNORECASE)
"""Matches what says that there is no error."""
_SOME = re.compile(r"\b[1-9]\d* (?:error|fail)", re.IGNORECASE)
_BEFORE, _AFTER = 1, 3
"""How many lines around a line with an error belong to it."""
_WITHOUT = 30
"""How many of the last lines count if no line names an error."""


def errors_of(log: str) -> str:
    """Return the lines of a log that say why the check failed, at most `ERRORS_LIMIT` characters.

    If there are more, the last ones are kept, because logs end with the error.
    """
    lines = [line.rstrip() for line in log.splitlines()]
    kept: set[int] = set()
    for number, line in enumerate(lines):
        if _ERROR.search(line) and not _names_none(line):
            kept.update(range(max(0, number - _BEFORE), min(len(lines), number + _AFTER + 1)))
    if not kept:
        return last_lines("\n".join(lines[-_WITHOUT:]), ERRORS_LIMIT)
    return last_lines("\n".join(lines[number] for number in sorted(kept)), ERRORS_LIMIT)


def _names_none(line: str) -> bool:
    """Whether a line says that there is no error, and does not count any after that."""
    ends = [found.end() for found in _NONE.finditer(line)]
    return bool(ends) and _SOME.search(line, ends[-1]) is None
