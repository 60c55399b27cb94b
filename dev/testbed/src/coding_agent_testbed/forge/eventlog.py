"""What people and programs did on the forge, in order and to the microsecond: from it tests reach a verdict.

The forge's own history, which clients read, has whole seconds and no edits of comments.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from coding_agent_testbed.forge.clock import utc_now
from coding_agent_testbed.forge.model import Item, Kind, Repository, User

KEPT = 100_000
"""Events that the log keeps: the newest."""
_UPDATE = re.compile(rb"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) refs/heads/([^\0\n]+)")


@dataclass(frozen=True)
class ForgeEvent:
    """Something that somebody did.

    Attributes:
        at: when, by this machine's clock, whatever the forge's own clock shows.
        event: `opened`, `edited`, `closed`, `reopened`, `merged`, `approved`, `labeled`, `unlabeled`,
            `commented`, `comment_edited`, `pushed`, `reviewed`, `review_commented`, `review_requested`,
            `resolved`, `unresolved`, `check` or `rerun`.
        actor: the login.
        kind, number: the item, if there is one.
        label: the label of `labeled` and `unlabeled`.
        comment: the id of the comment that was written or edited; for `reviewed`, that of the comment that
            has the review's text (GitLab).
        title: of an item that was `opened`.
        body: the new text of the comment, of the review, or of the item for `opened` and `edited`; the last
            line of the log of a `check`.
        branch: of `pushed`, and that of a change that was `opened`.
        base: the branch into which a change that was `opened` is to be merged.
        before, after: of `pushed`; 40 zeros for the commit that is not there.
        forced: of `pushed`: whether it left commits of the branch behind.
        thread: the id of the thread of `review_commented`, `resolved` and `unresolved`.
        review: the id of a review.
        state: of a review, as GitHub calls it; for `check`, its result, or `running` or `queued`.
        check, commit: the name and the commit of a `check`, or of one that somebody runs again (`rerun`).
        reviewer: the login of whom a review is requested from.
    """

    id: int
    at: datetime
    event: str
    repository: str
    actor: str
    kind: Kind | None = None
    number: int | None = None
    label: str | None = None
    comment: int | None = None
    body: str | None = None
    branch: str | None = None
    before: str | None = None
    after: str | None = None
    forced: bool | None = None
    thread: int | None = None
    review: int | None = None
    state: str | None = None
    check: str | None = None
    commit: str | None = None
    title: str | None = None
    base: str | None = None
    reviewer: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"at": self.at.isoformat(timespec="microseconds")}


class EventLog:
    """The events, oldest first."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self.events: deque[ForgeEvent] = deque(maxlen=KEPT)
        self._now = now
        self._count = 0

    def add(
        self, event: str, repository: Repository, actor: User, item: Item | None = None, **more: Any
    ) -> None:
        """Record what has just happened; `more` are further fields of `ForgeEvent`."""
        self._count += 1
        if item is not None:
            more |= {"kind": item.kind, "number": item.number}
        self.events.append(
            ForgeEvent(self._count, self._now(), event, repository.full_name, actor.login, **more)
        )

    def after(self, identifier: int) -> list[ForgeEvent]:
        """The events that are newer than one; 0: all."""
        return [event for event in self.events if event.id > identifier]


def pushed_refs(request: bytes, answer: bytes) -> list[tuple[str, str, str]]:
    """The branches that a push moved: name, old and new commit.

    A push begins with one pkt-line `OLD NEW REF` for each ref, and its answer contains `ok REF` for each
    that was accepted (https://git-scm.com/docs/pack-protocol, "Reference Update Request", "Report Status").
    """
    moved: list[tuple[str, str, str]] = []
    at = 0
    while length := _length(request[at : at + 4]):
        line = _UPDATE.match(request, at + 4, at + length)
        if line is not None and b"ok refs/heads/%s\n" % line[3] in answer:
            old, new, branch = (part.decode("utf-8", "replace") for part in line.groups())
            moved.append((branch, old, new))
        at += length
    return moved


def _length(packet: bytes) -> int:
    """Length of a pkt-line, its four hex digits included; 0: the list of refs ends here."""
    return int(packet, 16) if re.fullmatch(rb"[0-9a-f]{4}", packet) else 0
