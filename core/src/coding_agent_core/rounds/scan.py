"""Scans the open changes of our account on one forge, and decides which work is open on each.

A scan reads all open changes anew, and decides from them and from the record in our comment. An event only
causes a scan and carries no decision, so an event that is lost or repeated changes nothing. On Kubernetes
the reporter carries out the decisions, elsewhere a consumer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from math import inf

from coding_agent_core.errors import CodingAgentError, ForgeNotFoundError, NotYetError, RequestKind, reason_of
from coding_agent_core.forge.changes import ChangeSnapshot, ChangeState, OpenChanges
from coding_agent_core.forge.item_forge import ItemForge
from coding_agent_core.forge.values import MARKER, Permission
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import State, comment_with_change_rounds, read_state
from coding_agent_core.rounds.decide import open_work
from coding_agent_core.rounds.notes import our_comment
from coding_agent_core.rounds.review import is_one_of
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger, identity_hash
from coding_agent_core.task.round_cause import PERMISSIONS_LIMIT, RoundCause, RoundPolicy, Work
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.round_report import trigger_of
from coding_agent_core.task.runners import RunnerName

_logger = logging.getLogger("coding_agent.rounds")

_PERMISSION_S = 600.0
"""Seconds for which scans rely on a permission. When a round starts, permissions are read anew."""
_DECISIONS = 3
"""Maximum number of decisions in one scan of a change. A further one is needed if permissions were read."""
_LOGINS = PERMISSIONS_LIMIT // _DECISIONS
"""Maximum number of permissions that are read for one decision."""
_COMMENT_S = 60.0
"""Seconds after a scan that a stranger's comment caused until such a comment causes another one."""
_KNOWN = 1000
"""Changes that scans of single changes remember; a scan of all forgets those that are closed."""
_FAILURES = 3
"""After this many failed changes in a row, the forge or the queue is the problem, and the scan ends."""

ScanHandler = Callable[[str, ChangeSnapshot], Awaitable[float | None]]
"""Handles a change, whose item has this hash; returns in how many seconds time alone makes a round due."""


@dataclass(frozen=True)
class RequestedScan:
    """A scan that events have requested.

    Attributes:
        due: the monotonic time from which it may be done.
        is_limited: whether only comments of strangers ask for it.
    """

    item: Item
    due: float
    is_limited: bool


@dataclass
class ScanTimes:
    """The schedule of scans: of the changes that events have named, and of all open changes. Pure.

    Anybody can write many comments. So the first comment of a stranger causes a scan of the change at once,
    and further ones cause at most one scan in a minute. A postponed scan is not lost: it stays in the
    schedule, and a scan of all changes includes the change.

    Args:
        interval: the seconds between two scans of all changes.

    Attributes:
        regular: the monotonic time of the next scan of all changes.
        is_early: whether a scan has found that a round becomes due before the interval is over.
    """

    interval: float
    monotonic: Callable[[], float]
    regular: float = -inf
    is_early: bool = False
    _asked: dict[str, RequestedScan] = field(default_factory=dict)
    _limited_until: dict[str, float] = field(default_factory=dict)
    """When strangers' comments may cause the next scan of a change; times that are over are dropped."""

    def ask(self, item: Item, *, is_limited: bool = False) -> None:
        """Request a scan of a change, or of all changes if the item is the issue of an unknown change."""
        key, now = identity_hash(item.identity), self.monotonic()
        due = max(now, self._limited_until.get(key, now)) if is_limited else now
        known = self._asked.get(key)
        if known is None or due < known.due:
            self._asked[key] = RequestedScan(item, due, is_limited)

    def is_asked(self, item: Item) -> bool:
        """Whether a requested scan of the item has not been done yet."""
        return identity_hash(item.identity) in self._asked

    def wait(self) -> float:
        """Return the seconds until the next scan is due."""
        return max(0.0, min(self.regular, *(one.due for one in self._asked.values()), inf) - self.monotonic())

    @property
    def is_regular(self) -> bool:
        """Whether the next scan of all changes is due."""
        return self.monotonic() >= self.regular

    def postpone(self) -> None:
        """Skip this scan of all changes, because another process does it."""
        self.regular = self.monotonic() + self.interval

    async def run_due(
        self, at_all: Callable[[], Awaitable[float]], at_one: Callable[[Item], Awaitable[float]]
    ) -> None:
        """Run the scans that are due. An event that arrives meanwhile requests another scan.

        Args:
            at_all: scans all changes; returns the seconds until the next scan of all changes.
            at_one: scans one change; returns the seconds until a round becomes due without an event.

        Raises:
            Exception: the error of a scan, which is then due again.
        """
        now = self.monotonic()
        due = {key: one for key, one in self._asked.items() if one.due <= now}
        is_regular = self.is_regular or any(one.item.kind is not ItemKind.CHANGE for one in due.values())
        limited = {key: now + _COMMENT_S for key, one in due.items() if one.is_limited}
        self._limited_until = {k: until for k, until in self._limited_until.items() if until > now} | limited
        taken = dict(self._asked) if is_regular else due
        for key in taken:
            del self._asked[key]
        try:
            if is_regular:
                wait = await at_all()
                self.regular, self.is_early = self.monotonic() + wait, wait < self.interval
            else:
                for one in due.values():
                    await self._scan_one(one.item, at_one)
        except BaseException:
            self._asked |= taken
            raise

    async def _scan_one(self, item: Item, at_one: Callable[[Item], Awaitable[float]]) -> None:
        soonest = self.monotonic() + await at_one(item)
        if soonest < self.regular:
            self.regular, self.is_early = soonest, True


@dataclass
class SetAside:
    """A change that failed, so scans leave it out until a monotonic time."""

    failures: int
    until: float


@dataclass(frozen=True)
class LeftOut:
    """An open change that scans leave out.

    Attributes:
        head_branch: empty if it is not known.
    """

    item: Item
    why: str
    head_branch: str = ""


@dataclass(frozen=True)
class ChangeRounds:
    """The rounds that a change has had, for the comment on its issue (`summary_of`)."""

    change_url: str
    summary: str


def round_request(
    snapshot: ChangeSnapshot,
    cause: RoundCause,
    issue: Item | None,
    *,
    user: str,
    runner: RunnerName | None,
    now: datetime,
) -> TaskRequest:
    """Return the request for a round of a change.

    Args:
        issue: the issue that the change answers.
        user: the person who asked for the work that led to the change; their settings apply to rounds too.
        runner: the runner of that work.
        now: the time by our own clock.
    """
    word, trigger = trigger_of(cause, snapshot.read_at)
    return TaskRequest(
        item=snapshot.item,
        user=user,
        title=snapshot.title[:1024],
        url=snapshot.url[:2048],
        trigger=Trigger(origin=Origin.POLL, cause=word, received_at=now, round=trigger),
        answers=issue,
        runner=runner,
    )


async def show_on_issue(forge: ItemForge, issue: Item, rounds: ChangeRounds) -> None:
    """Show the rounds of a change in our comment on its issue, if the comment names the change.

    The rest of the comment and the labels do not change. The call can be repeated, because an equal text is
    not written again. Nothing is written on a closed issue. The caller must make sure that nobody else writes
    the comment at the same time.
    """
    try:
        comment = await forge.find_comment(issue, MARKER)
        if comment is None:
            return
        body = comment.body.replace("\r\n", "\n")
        text = comment_with_change_rounds(body, issue, rounds.change_url, rounds.summary)
        if text != body and (await forge.read_state(issue)).open:
            await forge.upsert_comment(issue, MARKER, text, known=comment)
    except ForgeNotFoundError:
        return  # the issue was deleted


@dataclass
class ChangeScans:
    """Scans the open changes of one forge.

    Args:
        policy: the rules of rounds on this forge.
        delay: returns the seconds until the next try, given the failures in a row and the last error.
        monotonic: returns the monotonic time in seconds.

    Attributes:
        open: the hashes of the items that were open in the last scan.
        left_out: the changes that the last scan left out, by the hash of the item.
    """

    forge: ItemForge
    policy: RoundPolicy
    delay: Callable[[int, BaseException], float]
    monotonic: Callable[[], float]
    open: frozenset[str] = frozenset()
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    _states: dict[str, tuple[str, State | None]] = field(default_factory=dict)
    """The states of long comments, whose end snapshots do not show, with `OurComment.key`."""
    _permissions: dict[tuple[str, str], tuple[float, bool]] = field(default_factory=dict)
    """Until when (monotonic) we rely on what somebody may do, by the repository and the login."""
    _none_until: dict[str, int] = field(default_factory=dict)
    """The number of the newest comment up to which none is ours, for changes with very many comments."""
    _lists_all: bool = True
    _aside: dict[str, SetAside] = field(default_factory=dict)

    async def scan_all(self, interval: float, handle: ScanHandler) -> float:
        """Scan all open changes once. Return the seconds until the next scan, at most `interval`.

        Raises:
            CodingAgentError: the changes could not be listed, or several in a row could not be handled.
        """
        changes = await self.forge.open_changes()
        if self._lists_all and not changes.complete:
            _logger.warning(
                "%s has more of our open changes than a scan lists: only %d have rounds",
                self.forge.host,
                len(changes.snapshots),
            )
        self._lists_all = changes.complete
        self._forget(changes)
        wait, in_a_row = interval, 0
        for snapshot in changes.snapshots:
            key = identity_hash(snapshot.item.identity)
            aside = self._aside.get(key)
            if aside is not None and aside.until > self.monotonic():
                continue
            # A change that fails does not end the scan, but several in a row mean that the forge fails.
            failed, soonest = await self._handled(key, snapshot, handle, is_last=in_a_row + 1 >= _FAILURES)
            in_a_row = in_a_row + 1 if failed else 0
            wait = wait if soonest is None else min(wait, soonest)
        return wait

    async def scan_one(self, item: Item, handle: ScanHandler) -> float:
        """Scan one change. Return the seconds until a round becomes due without an event, or infinity.

        Raises:
            CodingAgentError: the change could not be read.
        """
        try:
            snapshot = await self.forge.snapshot(item)
        except ForgeNotFoundError:
            return inf  # the change was deleted
        if snapshot.state is not ChangeState.OPEN or snapshot.author.id != snapshot.own.id:
            return inf
        key = identity_hash(snapshot.item.identity)
        if key not in self.open and len(self.open) >= _KNOWN:
            self._forget(OpenChanges(()))  # this process never scans all changes
        self.open |= {key}
        _, soonest = await self._handled(key, snapshot, handle, is_last=False)
        return inf if soonest is None else soonest

    def is_stranger(self, item: Item, login: str) -> bool:
        """Whether the author of a comment is neither a listed bot nor known to have write access."""
        return not is_one_of(login, self.policy.bots) and not self._may_write(item, login)

    async def _handled(
        self, key: str, snapshot: ChangeSnapshot, handle: ScanHandler, *, is_last: bool
    ) -> tuple[bool, float | None]:
        """Handle a change, and leave it out for a while if this fails.

        Args:
            is_last: whether a failure ends the scan.

        Returns:
            Whether it failed, and the seconds until the change has to be scanned again, if they are known.
        """
        try:
            soonest = await handle(key, snapshot)
        except NotYetError as error:
            if error.kind is not RequestKind.CREATE:
                raise
            # Only the limit for new comments is reached. Other changes may need no new comment, so the scan
            # continues.
            return False, self._set_aside(key, snapshot, error, is_failure=False)
        except Exception as error:
            wait = self._set_aside(key, snapshot, error)
            if is_last:
                raise
            return True, wait
        self._aside.pop(key, None)
        self.left_out.pop(key, None)
        return False, soonest

    async def state(self, key: str, snapshot: ChangeSnapshot) -> State | None:
        """Return the state in our comment on a change. Only a long comment costs a request.

        Args:
            key: the hash of the change's item.
        """
        ours = our_comment(snapshot)
        if ours.whole:
            return ours.state
        known = self._states.get(key)
        if known is not None and ours.key and known[0] == ours.key:
            return known[1]
        numbers = [int(one.id) for one in snapshot.comments if one.id.isdecimal()]
        if ours.body is None and numbers and min(numbers) <= self._none_until.get(key, -1):
            return None  # the snapshot shows what was written since then, and nothing of it is ours
        found = await self.forge.find_comment(snapshot.item, MARKER)
        if found is None and numbers:
            self._none_until[key] = max(numbers)
        state = None if found is None else read_state(found.body)
        self._states[key] = ours.key, state
        return state

    def wrote(self, key: str) -> None:
        """Forget the cached comment of the item with this hash, because we have changed it."""
        self._states.pop(key, None)
        self._none_until.pop(key, None)

    async def decide(self, snapshot: ChangeSnapshot, record: RoundRecord, *, active: bool) -> Work:
        """Decide which work is open on a change, and read the permissions that the decision needs.

        Args:
            active: whether another run of the change waits or works.
        """
        place = snapshot.item.repository_identity
        may_write = partial(self._may_write, snapshot.item)
        work = Work()
        for _ in range(_DECISIONS):
            work = open_work(
                snapshot, record, self.policy, snapshot.read_at, may_write=may_write, active=active
            )
            # A limited number in one decision: accounts without rights could otherwise use up the requests.
            for login in work.ask[:_LOGINS]:
                permission = await self.forge.permission(snapshot.item, login)
                until = self.monotonic() + _PERMISSION_S
                self._permissions[place, login.casefold()] = until, permission >= Permission.WRITE
            if not work.ask:
                break
        return work

    def _may_write(self, item: Item, login: str) -> bool | None:
        """Return the cached permission of a person; `None` if the forge has to be asked."""
        until, allowed = self._permissions.get((item.repository_identity, login.casefold()), (0.0, None))
        return allowed if until > self.monotonic() else None

    def _set_aside(
        self, key: str, snapshot: ChangeSnapshot, error: Exception, *, is_failure: bool = True
    ) -> float:
        """Leave a change out of the scans for a while, and return the seconds."""
        known = self._aside.get(key)
        failures = (known.failures if known is not None else 0) + is_failure
        delay = self.delay(failures, error)
        self._aside[key] = SetAside(failures, self.monotonic() + delay)
        self.left_out[key] = LeftOut(snapshot.item, reason_of(error), snapshot.head_branch)
        log = _logger.warning if isinstance(error, CodingAgentError) else _logger.exception
        log("%s is set aside for %.0f s: %s", snapshot.item.display, delay, error)
        return delay

    def _forget(self, changes: OpenChanges) -> None:
        """Drop the cached facts about changes that are no longer open."""
        for item, why in changes.unreadable:
            _logger.warning("%s cannot be read: %s", item.display, why)
        now = self.monotonic()
        self._permissions = {who: known for who, known in self._permissions.items() if known[0] > now}
        unreadable: list[Item] = [item for item, _ in changes.unreadable]
        items = [*(snapshot.item for snapshot in changes.snapshots), *unreadable]
        self.open = frozenset(identity_hash(item.identity) for item in items)
        self._states = {key: state for key, state in self._states.items() if key in self.open}
        self._none_until = {key: last for key, last in self._none_until.items() if key in self.open}
        self._aside = {key: aside for key, aside in self._aside.items() if key in self.open}
        self.left_out = {key: one for key, one in self.left_out.items() if key in self._aside}
        self.left_out |= {
            identity_hash(item.identity): LeftOut(item, why) for item, why in changes.unreadable
        }
