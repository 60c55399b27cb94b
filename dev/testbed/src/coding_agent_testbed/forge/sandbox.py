"""One running forge: its state, its deliveries and what tests planted."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.clock import Clock
from coding_agent_testbed.forge.deliveries import Deliveries
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.faults import Fault
from coding_agent_testbed.forge.history import History
from coding_agent_testbed.forge.model import Item, Kind, Repository, Tips, User
from coding_agent_testbed.forge.requestlog import Logged
from coding_agent_testbed.forge.reviews import Reviews
from coding_agent_testbed.forge.store import Store


@dataclass
class Hour:
    """The requests of one token, or of all tokens of an App's installation, within an hour.

    Attributes:
        reset: when the next hour begins, as a Unix time by the forge's clock.
        limit: how many requests are answered.
    """

    reset: float
    limit: int = 0
    used: int = 0


@dataclass
class Sandbox:
    """What all routes share.

    Attributes:
        base_url: the forge's own address as clients see it, without a trailing slash.
        person: who the pages act as: the first admin of the seed.
        attachments: files that people attached, by their id (GitHub) or by `SECRET/NAME` (GitLab).
    """

    store: Store
    deliveries: Deliveries
    base_url: str
    person: User
    requests: deque[Logged]
    clock: Clock
    faults: list[Fault] = field(default_factory=list)
    attachments: dict[str, bytes] = field(default_factory=dict)
    history: History = field(default_factory=History)
    reviews: Reviews = field(init=False)
    mergeability_lag: int = 1
    """How often a forge says that it does not know yet whether a change can be merged, after each push."""
    hourly_quota: int = 5000
    """How many requests of a token GitHub answers in an hour, for each resource; an installation may have its
    own number."""
    git_bytes: int = 0
    """Bytes of all answers to git so far."""
    _hours: dict[tuple[int | str | None, str], Hour] = field(default_factory=dict)
    _asked: dict[int, tuple[str, str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reviews = Reviews(self.store)
        self.store.tips_of = self._tips_of

    def hour_of(self, token: str | None, resource: str) -> Hour:
        """The hour that began with a token's first request for the resource, or with the one after it."""
        installation = self.store.apps.installation_of(token)
        key = (token if installation is None else installation.id, resource)
        now, hour = self.clock().timestamp(), self._hours.get(key)
        if hour is None or hour.reset <= now:
            hour = self._hours[key] = Hour(now + 3600)
        hour.limit = self.hourly_quota
        if installation is not None and installation.hourly_quota is not None and resource == "core":
            hour.limit = installation.hourly_quota
        return hour

    def mergeable(self, repository: Repository, item: Item, *, counts: bool = True) -> bool | None:
        """Whether a change merges without conflicts; `None`: nobody has computed it yet.

        Both forges compute it in the background when somebody reads the change, and forget it when its head
        or base moves. `counts`: this is such a read.
        """
        base = git.branch_sha(repository.path, item.base)
        if not item.open or base is None:
            return None
        head = item.tips.head_sha
        known = self._asked.get(item.id)
        reads = known[2] if known is not None and known[:2] == (head, base) else 0
        if counts:
            self._asked[item.id] = head, base, reads + 1
        if reads < self.mergeability_lag:
            return None
        return git.merged_tree(repository.path, base, head) is not None

    async def push(self, repository: Repository, actor: User, branch: str, before: str, after: str) -> None:
        """See what follows when somebody has moved a branch forward."""
        self.store.pushed(repository, actor, branch, before, after, forced=False)
        await self.after_push(repository, actor)

    async def after_push(self, repository: Repository, pusher: User) -> None:
        """See which changes moved, or came into their base, by a push."""
        changes = [
            (target, item)
            for target in self.store.repositories
            for item in target.items
            if item.kind is Kind.CHANGE and item.open and (target is repository or item.source is repository)
        ]
        for target, item in changes:
            try:
                tips = await self.tips(target, item.base, item.head, item.source)
            except HttpError:  # the branch, or its repository, was deleted
                continue
            base_moved = tips.base_sha != item.tips.base_sha
            if base_moved and tips.commits == 0:
                self.store.merged(target, item, pusher)
            else:
                shortened = await asyncio.to_thread(
                    git.is_ancestor, target.path, tips.head_sha, item.tips.head_sha
                )
                self.store.moved(target, item, pusher, tips, shortened=shortened)

    async def merge(self, repository: Repository, item: Item, actor: User) -> str:
        """Merge an open change into its base, as a person does; the base's new commit.

        Raises:
            HttpError: 405 if it is not open or its branch is gone, 409 when they conflict.
            subprocess.CalledProcessError: somebody else has moved the base meanwhile.
        """
        holder = repository.holder(item)
        head = await asyncio.to_thread(git.branch_sha, holder.path, item.head) if holder else None
        before = await asyncio.to_thread(git.branch_sha, repository.path, item.base)
        if not item.open or head is None or before is None:
            raise HttpError(405, f"{repository.full_name} change {item.number} cannot be merged")
        after = await asyncio.to_thread(git.merge, repository.path, item.base, head, f"Merge {item.title}")
        await self.push(repository, actor, item.base, before, after)
        return after

    async def tips(self, repository: Repository, base: str, head: str, source: Repository | None) -> Tips:
        """Where the branches of a change are; `source` is the fork that holds its head, if one does.

        Raises:
            HttpError: 404 when one of them does not exist.
        """
        return await asyncio.to_thread(self._read_tips, repository, base, head, source)

    def _read_tips(self, repository: Repository, base: str, head: str, source: Repository | None) -> Tips:
        if source is not None and source.deleted:
            raise HttpError(404, f"{source.full_name} was deleted")
        return git.tips(repository.path, base, head, source.path if source is not None else None)

    def _tips_of(self, repository: Repository, item: Item) -> Tips:
        """Where the branches of a change are, or were when it was open, if one of them does not exist.

        Both vendors refuse to reopen a change without its branch, and GitHub one whose branch was
        force-pushed; here both are reopened.
        """
        try:
            return self._read_tips(repository, item.base, item.head, item.source)
        except HttpError:
            return item.tips

    def url_of(self, repository: Repository, item: Item | None = None) -> str:
        """The page of a repository or an item."""
        return self.base_url + self.path_of(repository, item)

    def path_of(self, repository: Repository, item: Item | None = None) -> str:
        """The same without the host."""
        root = f"/{repository.full_name}"
        if item is None:
            return root
        if self.store.flavour == "github":
            return f"{root}/{'issues' if item.kind is Kind.ISSUE else 'pull'}/{item.number}"
        return f"{root}/-/{'issues' if item.kind is Kind.ISSUE else 'merge_requests'}/{item.number}"
