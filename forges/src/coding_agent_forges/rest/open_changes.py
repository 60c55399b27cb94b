"""Reads open changes one by one, so that one unreadable change does not block the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coding_agent_core.errors import CodingAgentError, ForgeError, ForgeListTooLongError, reason_of
from coding_agent_core.forge.changes import ChangeSnapshot, ChangeState, OpenChanges
from coding_agent_core.task.model import Item

from coding_agent_forges.rest.calls import Read

_logger = logging.getLogger("coding_agent.forge")

_Known = TypeVar("_Known")
SET_ASIDE = (200, 403, 404, 500)
"""Statuses of answers that say something about one change, and nothing about the forge as a whole. A
`ForgeError` has 200 if the answer has an unexpected form."""

CHANGE_PAGES = 20
"""The most pages that `find_change` reads: forks can have many changes from branches of the same name."""


async def read_each(
    items: Read[Item],
    caches: dict[str, _Known],
    read: Callable[[Item, _Known], Awaitable[ChangeSnapshot]],
    *,
    new: Callable[[], _Known],
) -> OpenChanges:
    """Read our listed changes, and return the snapshots of those that are still open.

    Args:
        items: the changes that the forge lists.
        caches: cached responses by the identity of the change; those of unlisted changes are dropped.
        read: reads one change, and updates its cached responses.
        new: returns an empty cache for a change.

    Raises:
        CodingAgentError: an error that is not about one change alone.
    """
    snapshots: list[ChangeSnapshot] = []
    unreadable: list[tuple[Item, str]] = []
    for item in items.values:
        try:
            snapshot = await read(item, caches.setdefault(item.identity, new()))
        except Exception as error:
            of_one = isinstance(error, ForgeError) and error.status in SET_ASIDE
            unreadable.append((item, why_unreadable(error, item, of_one_change=of_one)))
            continue
        if snapshot.state is ChangeState.OPEN:
            snapshots.append(snapshot)
    for gone in caches.keys() - {item.identity for item in items.values}:
        del caches[gone]
    return OpenChanges(tuple(snapshots), tuple(unreadable), items.left_out)


def why_unreadable(error: Exception, item: Item, *, of_one_change: bool) -> str:
    """Return the reason, for people, why one change cannot be read.

    Args:
        error: the error that reading the change raised. An error of our own code is only logged, because a
            defect that one change shows must not stop the rounds of all others.
        of_one_change: whether an error of the forge concerns this change alone.

    Raises:
        CodingAgentError: `error`, if the other changes cannot be read either.
    """
    if not isinstance(error, CodingAgentError):
        _logger.error("%s cannot be read", item.display, exc_info=error)
    elif not of_one_change:
        raise error
    return reason_of(error)


def require_all_changes(item: Item, branch: str, *, complete: bool) -> None:
    """Raise `ForgeListTooLongError` if a list of changes was not read to its end and no change was found."""
    if not complete:
        raise ForgeListTooLongError(
            f"The list of open changes of {item.repository} is longer than what is read of it. It shows none "
            f"from the branch {branch}, and it is not known whether there is one."
        )
