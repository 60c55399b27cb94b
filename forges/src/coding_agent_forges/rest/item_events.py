"""Reads people's events from a forge's lists, in the order in which they happened. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from coding_agent_core.settings.forges import ForgeSettings
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position

from coding_agent_forges.rest.responses import HistoryEvent

_LABELS = (ItemAction.LABELED, ItemAction.UNLABELED)


def item_events(
    entries: Iterable[HistoryEvent],
    actions: Mapping[str, ItemAction],
    settings: ForgeSettings,
    *,
    series: int = 0,
) -> list[ItemEvent]:
    """Return the events of active labels and of closing among a list's entries, ordered by their ids.

    Events of deleted labels are left out, because nobody can know what they meant. An entry may be there
    twice, if something was added to the forge's list between two pages.

    Args:
        actions: the meaning of the forge's names of events. Others are left out.
    """
    found: dict[int, ItemEvent] = {}
    for entry in entries:
        action = actions.get(entry.action)
        label = settings.spelled(entry.label.name) if entry.label else ""
        if action is None or (action in _LABELS and label not in settings.active):
            continue
        user = entry.user.login if entry.user else ""
        found[entry.id] = ItemEvent(
            entry.id, action, label if action in _LABELS else "", user, entry.created_at, series
        )
    return [found[number] for number in sorted(found)]


def reaches(events: Sequence[ItemEvent], after: Position | None, shown: Iterable[str]) -> bool:
    """Whether the events of a list's end go back to a position, so that no page before them is needed.

    An event of a label at or before the position must be among them, and one of each label that the item
    shows: whoever compares the item with its history needs them, even if they were answered long ago.

    Args:
        shown: the active labels that the item shows.
    """
    explained = {event.label for event in events}
    answered = after is not None and any(event.label and after.covers(event) for event in events)
    return answered and explained.issuperset(shown)


def merged(labels: Sequence[ItemEvent], states: Sequence[ItemEvent]) -> list[ItemEvent]:
    """Merge two lists, each in the order of its own ids, by time.

    Only here times decide, because no id says which of two events in different lists was first. The order
    within a list remains, whatever its times are. If two times are equal, the state comes first, because
    GitLab changes it first if one request changes both.
    """
    found: list[ItemEvent] = []
    left = 0
    for state in states:
        while left < len(labels) and labels[left].at < state.at:
            found.append(labels[left])
            left += 1
        found.append(state)
    return [*found, *labels[left:]]


def agrees(history: ItemHistory) -> bool:
    """Whether the item shows what the last event of each kind says.

    If it does not, something happened between the two requests, or the history lags behind, or a label was
    deleted.
    """
    for event in {event.label: event for event in history.events}.values():
        shown = event.label in history.present if event.label else history.open
        if shown != (event.action in (ItemAction.LABELED, ItemAction.REOPENED)):
            return False
    return True
