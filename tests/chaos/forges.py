"""What a run needs of a forge: that people act on it, and that it tells afterward what happened.

The sandbox forge (`ForgeServer`) is one, and `GiteaForge` of `gitea_forge.py` is a real Gitea. Both show
items, changes, threads and checks in the types of the sandbox's model. A sandbox returns them live. From a
real forge they are as they were when they were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from coding_agent_testbed.forge.eventlog import ForgeEvent
from coding_agent_testbed.forge.faults import Fault
from coding_agent_testbed.forge.model import Check, Item, Kind, Repository, Thread


class ForgeRefusal(Exception):
    """A real forge refuses what a person does, or does not answer; the message has its own words."""


class PeoplesForge(Protocol):
    """What people do on a forge, in a repository of a full name, `by` the person of a login.

    Raises:
        KeyError: the repository or the item does not exist.
        coding_agent_testbed.forge.errors.HttpError, ForgeRefusal: the forge refuses it.
    """

    def repository(self, full_name: str) -> Repository:
        """The repository, with its folder on this machine and its default branch."""

    def item(self, full_name: str, number: int, kind: Kind | str = Kind.ISSUE) -> Item: ...

    def changes(self, full_name: str) -> list[Item]:
        """The changes of a repository, oldest first."""

    def pushed_branches(self, full_name: str) -> list[str]:
        """The branches to which somebody has pushed, the newest push last."""

    def threads(self, full_name: str, number: int) -> list[Thread]:
        """The threads of a change, oldest first."""

    def checks(self, full_name: str, sha: str) -> list[Check]:
        """The newest check of each name of a commit."""

    def open_issue(
        self,
        full_name: str,
        title: str,
        body: str = "",
        *,
        by: str | None = None,
        labels: Sequence[str] = (),
    ) -> int:
        """Open an issue, as by a form if it has labels; its number."""

    def add_label(
        self, full_name: str, number: int, label: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None: ...

    def remove_label(
        self, full_name: str, number: int, label: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None: ...

    def close(
        self, full_name: str, number: int, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None: ...

    def reopen(
        self, full_name: str, number: int, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None: ...

    def comment(
        self, full_name: str, number: int, text: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> int:
        """Write a comment; its id."""

    def push(self, full_name: str, branch: str, files: Mapping[str, str], *, by: str | None = None) -> str:
        """Push a commit that writes these files; the commit."""

    def merge(self, full_name: str, number: int, *, by: str | None = None) -> str:
        """Merge a change; the commit."""

    def review(
        self, full_name: str, number: int, state: str, text: str = "", *, by: str | None = None
    ) -> None:
        """Submit a review; `state` as GitHub calls it."""

    def start_thread(
        self, full_name: str, number: int, text: str, *, by: str | None = None, path: str, line: int
    ) -> Thread:
        """Comment on a line of a change; the thread."""

    def reply(self, thread: Thread, text: str, *, by: str | None = None) -> int:
        """Answer in a thread; the comment's id."""

    def resolve(self, thread: Thread, *, by: str | None = None) -> None: ...

    def add_check(self, full_name: str, sha: str, name: str, result: str = "", *, log: bytes) -> Check:
        """Let a check begin, or end with a result."""

    def rerun(self, full_name: str, check: Check, *, by: str | None = None) -> Check:
        """Let a check run again."""


class TriedForge(PeoplesForge, Protocol):
    """A forge that a system is connected to.

    Attributes:
        base_url: where the system reaches it, without a trailing slash.
        port: where requests of the system end that come through a proxy for connections.
    """

    @property
    def base_url(self) -> str: ...

    @property
    def api_url(self) -> str: ...

    @property
    def port(self) -> int: ...

    def events(self) -> list[ForgeEvent]:
        """What people and programs did, oldest first."""

    def add_hook(self, full_name: str, url: str, secret: str = "") -> int:
        """Send webhooks there; the hook's id."""

    def fault(self, **fields: Any) -> Fault:
        """Plant a fault of the answers to the system; fields as in `Fault`."""
