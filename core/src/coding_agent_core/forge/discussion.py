"""What people and programs say about an item: comments, reviews, threads on lines, failed checks.

Plain data, and what both forges' answers need to become it. All texts are written by others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

LOG_BYTES = 64 * 1024
"""Bytes that are kept of the end of a check's log."""
CHECKS_LIMIT = 10
"""Failed checks whose logs are read."""
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_GITLAB_SECTION = re.compile(r"section_(?:start|end):\d+:[^\r\n]*\r?")
_GITHUB_TIME = re.compile(r"^\ufeff?\d{4}-\d\d-\d\dT[\d:.]+Z ?", re.MULTILINE)
_GITHUB_ERROR = "##[error]"


@dataclass(frozen=True)
class Comment:
    """A comment on an item. `id` is the forge's id as text."""

    id: str
    author: str
    body: str
    created_at: datetime
    url: str = ""


@dataclass(frozen=True)
class Review:
    """A review as a whole.

    Attributes:
        verdict: `approved`, `changes requested`, `commented` or `dismissed`.
    """

    author: str
    verdict: str
    body: str
    created_at: datetime


@dataclass(frozen=True)
class Thread:
    """Comments on lines of a file of a change.

    Attributes:
        path: where the file is in the change's newest commit; if it is gone, where it last was.
        previous_path: another path of the file, before it was renamed.
        line: the last line that is meant; `None`: the whole file.
        start_line: the first one, if there are several.
        removed: the lines are counted in the file as it was before the change.
        hunk: the part of the difference that the comments were written on; empty if it is not known.
        resolved: `None` if it is not known.
        outdated: the lines were changed since; they are counted in the commit that was commented on.
        comments: oldest first, at least one.
    """

    path: str
    line: int | None
    hunk: str
    resolved: bool | None
    outdated: bool
    comments: tuple[Comment, ...]
    start_line: int | None = None
    removed: bool = False
    previous_path: str | None = None

    def renamed(self, renames: Mapping[str, str]) -> Thread:
        """With the file's present path.

        Args:
            renames: path before the change to path in its newest commit, of the files that it renames.
        """
        if self.path in renames:
            return replace(self, path=renames[self.path], previous_path=self.path)
        before = next((old for old, new in renames.items() if new == self.path), None)
        return replace(self, previous_path=before) if before else self


@dataclass(frozen=True)
class Discussion:
    """What the reviewers of a change say, oldest first."""

    reviews: tuple[Review, ...] = ()
    threads: tuple[Thread, ...] = ()


@dataclass(frozen=True)
class FailedCheck:
    """A check that failed on the change's newest commit.

    Attributes:
        result: in the forge's word, e.g. `failure` or `timed_out`.
        summary: what the check itself reported, empty if nothing.
        log: the end of its log, empty if it has none or it could not be read.
    """

    name: str
    result: str
    url: str
    summary: str = ""
    log: str = ""


@dataclass(frozen=True)
class Checks:
    """The checks of a change's newest commit.

    Attributes:
        failed: at most `CHECKS_LIMIT`.
        unreadable: what could not be read, a phrase for each, e.g. `the check runs (403)`.
    """

    failed: tuple[FailedCheck, ...] = ()
    unreadable: tuple[str, ...] = ()


def log_text(content: bytes) -> str:
    """The end of a log as plain text: no terminal sequences, times or section marks.

    After a failed step GitHub Actions still cleans up; that is left out. A line that was overwritten (`\\r`)
    shows what it became last.
    """
    text = _TERMINAL.sub("", content.decode("utf-8", "replace"))
    text = _GITHUB_TIME.sub("", _GITLAB_SECTION.sub("", text))
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n"))
    before, error, after = text.rpartition(_GITHUB_ERROR)
    return (f"{before}{error}{after.partition(chr(10))[0]}" if error else text).strip()


def hunk_at(diff: str, *, new_line: int | None, old_line: int | None, context: int = 8) -> str:
    """The lines of a file's unified diff up to the one that is meant, as GitHub shows them.

    Args:
        diff: from its first `@@` on.
        new_line: the line after the change; or
        old_line: the line before it.
        context: lines before it at most.

    Returns:
        empty if the diff does not show the line.
    """
    shown: list[str] = []
    head, old, new = "", 0, 0
    for line in diff.splitlines():
        start = re.match(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@", line)
        if start:
            head, old, new, shown = line, int(start[1]), int(start[2]), []
            continue
        shown.append(line)
        kind = line[:1]
        meant = (
            new == new_line and kind in (" ", "+")
            if new_line is not None
            else old == old_line and kind == "-"
        )
        if meant:
            return "\n".join([head, *shown[-context:]])
        old += kind in (" ", "-")
        new += kind in (" ", "+")
    return ""
