"""Our one comment on an item: find it, write it once. The same for both forges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coding_agent_core.errors import ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.forge.pacing import NotYetError
from coding_agent_core.forge.protocol import Comment

Find = Callable[[], Awaitable[Comment | None]]


async def upsert(
    *,
    find: Find,
    marker: str,
    body: str,
    create: Callable[[], Awaitable[Comment]],
    edit: Callable[[Comment], Awaitable[Comment]],
    known: Comment | None = None,
) -> Comment:
    """Write the comment: nothing if it says so already, else edit it, else create it.

    Args:
        known: the comment as it was found before: it is not looked for again, unless it is gone.

    Raises:
        ValueError: the body has no marker, so it would never be found again.
        ForgeError: the comment was not written, or it cannot be told whether it was.
    """
    if marker not in body:
        raise ValueError("the body of our comment must contain its marker")
    if known is not None:
        try:
            return await edit(known)
        except ForgeNotFoundError:
            pass  # somebody deleted it
    found = await find()
    if found is not None:
        if same(found.body, body):
            return found
        try:
            return await edit(found)
        except ForgeNotFoundError:
            pass  # somebody deleted it meanwhile; if the item is gone too, creating says so
    try:
        return await create()
    except NotYetError:
        raise  # it was not sent
    except ForgeUnavailableError:
        # The answer may be lost and the comment there: look once before the caller tries again.
        written = await find()
        if written is not None and same(written.body, body):
            return written
        raise


def same(one: str, other: str) -> bool:
    """Whether two bodies are the same to a reader: forges change line ends and outer white space."""
    return one.replace("\r\n", "\n").strip() == other.replace("\r\n", "\n").strip()
