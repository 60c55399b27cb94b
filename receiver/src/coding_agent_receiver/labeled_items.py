"""Handles the labeled items of a forge one by one, so that an item's error does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from coding_agent_core.errors import (
    CodingAgentError,
    ForgeError,
    ForgeListTooLongError,
    ForgeNotFoundError,
    ForgeUnavailableError,
    SettingsError,
    reason_of,
)
from coding_agent_core.runtime.telemetry import bound
from coding_agent_core.task.model import TaskRequest
from coding_agent_forges.rest.forge import Forge, LabeledItem, Repository

_logger = logging.getLogger("webhook.poller")

_IN_A_ROW = 3
"""So many failures in a row that are not the item's own mean that the forge or the queue is down. Each takes
up to 45 seconds of retries, so a pass over all items would take hours."""


@dataclass(frozen=True)
class Pass:
    """The result of one pass over the items.

    Attributes:
        found: the number of items in the forge's lists.
        failed: the number of items that could not be read or handled.
        cut: the error because of which not all items were listed or tried; `None` if there was none.
        partial: whether the forge has more items than one pass reads. The oldest come first.
    """

    found: int
    failed: int = 0
    cut: str | None = None
    partial: bool = False


@dataclass
class LabeledItems:
    """The items of a forge that have one of some labels.

    If a pass ends early, the next one begins with the items that were not tried. So every item is handled at
    some time, even if faults end each pass.

    Attributes:
        labels: by default `Labels.triggers`.
    """

    forge: Forge
    labels: frozenset[str] | None = None
    _last: tuple[str, int] | None = None
    """The identity and the place of the item that the last pass tried last, if it ended early."""
    _partial: bool = False
    """Whether the forge listed only a part of the items in the last pass. One warning is logged for this."""
    _failing: dict[str, str] = field(default_factory=dict)
    """Why items failed in the last pass. A problem that stays is not logged as a warning by each poll."""

    async def each(self, handle: Callable[[TaskRequest], Awaitable[None]]) -> Pass:
        """Read and handle each item.

        Raises:
            SettingsError: there is no token.
        """
        listed, cut = await self._listed()
        failing: dict[str, str] = {}
        private: dict[Repository, bool] = {}
        in_a_row: list[Exception] = []
        last, self._last = self._last, None
        for index, one in in_turn(listed, last):
            with bound(item=one.item.display):
                error = await self._handle(one, private, handle)
                if error is None:
                    in_a_row = []
                    continue
                failing[one.item.identity] = reason_of(error)
                self._log(one, error)
            in_a_row = [*in_a_row, error] if may_be_everywhere(error) else []
            if ends_pass(in_a_row):
                cut = cut or reason_of(error)
                self._last = (one.item.identity, index)
                break
        self._failing = failing
        return Pass(len(listed), len(failing), cut, self._partial)

    async def _listed(self) -> tuple[list[LabeledItem], str | None]:
        """Return the items that the forge lists, and the reason why some may be missing."""
        listed: list[LabeledItem] = []
        try:
            async for one in self.forge.labeled(self.labels):
                listed.append(one)
        except ForgeListTooLongError as error:
            # This is not an error: the other items follow when these have been handled.
            _logger.log(logging.DEBUG if self._partial else logging.WARNING, "%s", error)
            self._partial = True
            return listed, None
        except ForgeError as error:
            return listed, str(error)
        self._partial = False
        return listed, None

    async def _handle(
        self,
        listed: LabeledItem,
        private: dict[Repository, bool],
        handle: Callable[[TaskRequest], Awaitable[None]],
    ) -> Exception | None:
        try:
            await handle(await self.forge.request_of(listed, private))
        except ForgeNotFoundError:
            return None  # the item was deleted after it was listed
        except SettingsError:
            raise
        except Exception as error:
            return error
        return None

    def _log(self, listed: LabeledItem, error: Exception) -> None:
        sentence = "The poll skips this item; each later poll tries it again: %s"
        if self._failing.get(listed.item.identity) == reason_of(error):
            _logger.debug(sentence, error)
        elif isinstance(error, CodingAgentError):
            _logger.warning(sentence, error)
        else:
            _logger.error(sentence, error, exc_info=error)


def in_turn(listed: Sequence[LabeledItem], last: tuple[str, int] | None) -> list[tuple[int, LabeledItem]]:
    """Return the items with their indexes in the list, beginning after the item that was tried last.

    Args:
        last: the identity and the former index of that item, which may no longer be in the list.
    """
    if last is None:
        return list(enumerate(listed))
    identity, place = last
    found = (index + 1 for index, one in enumerate(listed) if one.item.identity == identity)
    first = next(found, place)
    places = list(enumerate(listed))
    return places[first:] + places[:first]


def may_be_everywhere(error: Exception) -> bool:
    """Whether other items may fail for the same reason. Most refusals are about one item or repository."""
    if not isinstance(error, ForgeError):
        return True
    return isinstance(error, ForgeUnavailableError) or error.status == 401


def ends_pass(in_a_row: Sequence[Exception]) -> bool:
    """Whether a pass ends after these errors, which may all have one reason."""
    if not in_a_row:
        return False
    last = in_a_row[-1]
    if isinstance(last, ForgeError) and (last.retry_after is not None or last.status == 401):
        return True  # the forge asks for a pause, or accepts nothing from us
    return len(in_a_row) >= _IN_A_ROW
