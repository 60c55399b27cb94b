"""What the pages show, worked out. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from coding_agent_testbed.forge.model import (
    Check,
    Comment,
    Flavour,
    Item,
    Kind,
    Label,
    Repository,
    Review,
    Thread,
    User,
)
from coding_agent_testbed.forge.reviews import Place

_HIDDEN = re.compile(r"^<!--.*?-->\s*|[ \t]*<!--.*?-->", re.DOTALL | re.MULTILINE)
_REFERENCE = re.compile(r"(?<![\w&])([#!])(\d{1,9})\b")


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff; `kind` is its CSS class."""

    kind: str
    text: str


def diff_lines(diff: str) -> list[DiffLine]:
    """A unified diff, line by line."""
    return [DiffLine(_kind(line), line) for line in diff.splitlines()]


def _kind(line: str) -> str:
    if line.startswith(("diff ", "index ", "--- ", "+++ ", "new file", "deleted file")):
        return "file" if line.startswith("diff ") else "hunk"
    if line.startswith("@@"):
        return "hunk"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")


def visible(markdown: str) -> str:
    """Markdown without its HTML comments, which no forge shows."""
    return _HIDDEN.sub("", markdown)


def emoji(name: str) -> str:
    """A reaction as people see it."""
    return {"eyes": "\N{EYES}", "+1": "\N{THUMBS UP SIGN}", "thumbsup": "\N{THUMBS UP SIGN}"}.get(
        name, f":{name}:"
    )


def chip_style(label: Label) -> str:
    """Colours of a label: dark letters on light, light ones on dark."""
    color = label.color if re.fullmatch("[0-9a-fA-F]{6}", label.color) else "ededed"
    red, green, blue = (int(color[start : start + 2], 16) for start in (0, 2, 4))
    ink = "#1c2128" if (red * 299 + green * 587 + blue * 114) / 1000 > 140 else "#ffffff"
    return f"background:#{color};color:{ink}"


def linked(repository: Repository, item: Item, *, change_mark: str) -> Sequence[Item]:
    """Items of the other kind that mention this one in their text, or that it mentions."""
    return [
        other
        for other in repository.items
        if other.kind is not item.kind
        if _mentions(item, other, change_mark) or _mentions(other, item, change_mark)
    ]


def _mentions(item: Item, other: Item, change_mark: str) -> bool:
    mark = change_mark if other.kind is Kind.CHANGE else "#"
    texts = [item.title, item.body, *(comment.body for comment in item.comments)]
    return any((mark, str(other.number)) in _REFERENCE.findall(visible(text)) for text in texts)


@dataclass(frozen=True)
class Entry:
    """Something on an item's page that has a time: exactly one of the other attributes is given.

    Attributes:
        pushed: the new head of a change.
    """

    at: datetime
    comment: Comment | None = None
    review: Review | None = None
    thread: ThreadView | None = None
    pushed: str = ""


@dataclass(frozen=True)
class ThreadView:
    """A thread with the lines that it is on.

    Attributes:
        lines: the last lines of the hunk, as it was placed.
    """

    thread: Thread
    place: Place
    lines: list[DiffLine]


_HUNK_LINES = 5
VERDICTS = {
    "APPROVED": "approved these changes",
    "CHANGES_REQUESTED": "requested changes",
    "COMMENTED": "reviewed",
    "DISMISSED": "reviewed; the review was dismissed",
}


def thread_view(thread: Thread, place: Place, hunk: str) -> ThreadView:
    """A thread as the page shows it; `hunk` ends with its line."""
    return ThreadView(thread, place, diff_lines("\n".join(hunk.splitlines()[-_HUNK_LINES:])))


def timeline(
    flavour: Flavour, item: Item, reviews: Sequence[Review], threads: Sequence[ThreadView]
) -> list[Entry]:
    """What was written on an item, oldest first.

    A review that only has threads shows nothing of its own. On GitLab the text of a review is a comment, and
    GitLab writes a note about each push and each verdict itself.
    """
    github = flavour is Flavour.GITHUB
    versions = item.versions[1:] if github else []
    said = [one for one in reviews if github and (one.body or one.state in ("APPROVED", "CHANGES_REQUESTED"))]
    entries = [
        *(Entry(one.created_at, comment=one) for one in item.comments),
        *(Entry(one.submitted_at, review=one) for one in said),
        *(Entry(one.thread.comments[0].created_at, thread=one) for one in threads),
        *(Entry(one.at, pushed=one.head_sha) for one in versions),
    ]
    return sorted(entries, key=lambda entry: entry.at)


@dataclass(frozen=True)
class CheckView:
    """A check or a status of the newest commit.

    Attributes:
        outcome: `passed`, `failed`, `running` or `other`; also its CSS class.
        said: how it ended, for people.
        log_path: the page with its log; empty if there is none.
    """

    name: str
    outcome: str
    said: str
    log_path: str


def check_views(root: str, flavour: Flavour, checks: Sequence[Check]) -> list[CheckView]:
    """Checks of a commit as the page shows them; `root`: the path of the repository."""
    return [_check_view(root, flavour, check) for check in checks]


def _check_view(root: str, flavour: Flavour, check: Check) -> CheckView:
    outcome = "running" if not check.result else _OUTCOMES.get(check.result, "other")
    said = check.summary or ("waits" if check.queued else check.result.replace("_", " ") or "runs")
    if check.attempt > 1:
        said += f", run {check.attempt}"
    path = f"actions/runs/{check.run}/job" if flavour is Flavour.GITHUB else "-/jobs"
    return CheckView(check.name, outcome, said, f"{root}/{path}/{check.id}" if check.log is not None else "")


_OUTCOMES = {
    "success": "passed",
    "neutral": "passed",
    "failure": "failed",
    "error": "failed",
    "timed_out": "failed",
}


def reviewers(
    flavour: Flavour, item: Item, reviews: Sequence[Review], verdict: Callable[[User], str]
) -> list[tuple[str, str]]:
    """Login and state of everybody who was asked for a review of a change, or gave one.

    Args:
        verdict: `Reviews.verdict` of the change.
    """
    people = {user.id: user for user in [*(one.author for one in reviews), *item.reviewers]}
    states = []
    for user in people.values():
        # GitHub removes everybody from the list who has answered, and GitLab removes nobody.
        asked = flavour is Flavour.GITHUB and user in item.reviewers
        state = "UNREVIEWED" if asked else verdict(user)
        if user != item.author and state in _REVIEWER_STATES:
            states.append((user.login, _REVIEWER_STATES[state]))
    return states


_REVIEWER_STATES = {
    "UNREVIEWED": "was asked for a review",
    "APPROVED": "approved",
    "CHANGES_REQUESTED": "requested changes",
    "COMMENTED": "reviewed",
}
