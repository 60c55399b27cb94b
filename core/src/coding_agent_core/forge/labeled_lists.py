"""Lists of labeled items that are longer than what one search reads: each search reads the next part."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from coding_agent_core.errors import ForgeListTooLongError
from coding_agent_core.forge.calls import Call

if TYPE_CHECKING:  # see `base`
    from coding_agent_core.forge.http import ForgeClient

_T = TypeVar("_T")


def only_a_part(host: str, labels: Iterable[str]) -> ForgeListTooLongError:
    """Return the error of a search that read only a part of the items."""
    return ForgeListTooLongError(
        f"{host} has more items labeled {' or '.join(map(repr, sorted(labels)))} than one poll reads. Each "
        "poll reads the next part, so an item of which no webhook came may be found some polls later."
    )


@dataclass
class LabeledLists:
    """Reads lists of labeled items page by page, and knows where the last search of each list ended."""

    client: ForgeClient
    _first: dict[str, int] = field(default_factory=dict)
    """With which page the next search of a list begins, if the last one did not reach its end."""

    async def pages(
        self, type_: type[_T], call: Call, labels: Iterable[str], *, limit: int
    ) -> AsyncIterator[_T]:
        """Yield at most `limit` pages, beginning after those of the last search.

        An item that leaves the list moves others to earlier pages. The next round finds those.

        Raises:
            ForgeListTooLongError: these are not all pages.
        """
        key = f"{call.path}?{sorted(call.params.items())}"
        first = self._first.get(key, 1)
        pages = self.client.pages(type_, call, limit=limit, first=first)
        async for page in pages:
            yield page
        if pages.complete:
            self._first.pop(key, None)
        else:
            self._first[key] = first + limit
        if first > 1 or not pages.complete:
            raise only_a_part(self.client.host, labels)
