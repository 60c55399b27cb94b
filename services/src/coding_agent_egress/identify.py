"""`python -m coding_agent_egress.identify KEYS`: Squid's helper for Basic authentication.

For each line of user name and password, URL-encoded, it answers `OK` or `ERR`
(https://wiki.squid-cache.org/Features/AddonHelpers#basic-scheme). It imports little, because Squid runs
several of these processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from coding_agent_core.task.egress import is_valid, job_of


def answer(line: str, keys: list[str]) -> str:
    """Return `OK` or `ERR` for one line of user name and password."""
    user, _, given = line.strip().partition(" ")
    name = unquote(user)
    return "OK" if job_of(name) and is_valid(name, unquote(given), keys) else "ERR"


def answer_lines(keys: Path, lines: TextIO, answers: TextIO) -> None:
    """Answer lines until the input ends. The file has one key per line, and is read again for each line."""
    for line in lines:
        print(answer(line, keys.read_text(encoding="utf-8").splitlines()), file=answers, flush=True)


if __name__ == "__main__":
    answer_lines(Path(sys.argv[1]), sys.stdin, sys.stdout)
