"""What people's labels ask for, by the forge's own order of events. Pure.

Each forge numbers what happens to an item, and the numbers grow in the order in which things happened. A run
records one position in that order: the events up to which it answers. Whoever can read the item asks `decide`
what to do about the events after it. No time is compared here, so a clock may be wrong, two events may have
the same second, and a webhook may be lost, late or doubled. docs/decisions/0044 has each forge's order and
what it lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto

from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position, furthest


@dataclass(frozen=True)
class Wishes:
    """What people wish after a position.

    Attributes:
        first: the position of the first application of the label.
        withdrawn: the position of the first withdrawal.
        application: the last application of the label that no later withdrawal takes back.
    """

    first: Position | None = None
    withdrawn: Position | None = None
    application: ItemEvent | None = None


def wishes(history: ItemHistory, after: Position | None) -> Wishes:
    """Return what people wish in the events after a position; `None` means from the item's beginning on.

    People withdraw by removing the last active label, or by closing the item. Beside the processing label, a
    label that asked for a task before the position does not count: we remove it a moment later. Our own
    account's labels count for nothing, so it does not matter if our removal of a label hides a person's new
    application of it.
    """
    labels, is_open = _state_before(history)
    withdrawn: Position | None = None
    application = _given_at_creation(history) if after is None else None
    position = after or Position()
    first = position if application is not None else None
    for event in history.events:
        is_new = after is None or not after.covers(event)
        position = position.after(event)
        match event.action:
            case ItemAction.LABELED:
                labels.add(event.label)
            case ItemAction.UNLABELED:
                labels.discard(event.label)
            case ItemAction.CLOSED | ItemAction.REOPENED:
                is_open = event.action is ItemAction.REOPENED
        by_person = event.user.casefold() != history.own_login.casefold() or not history.own_login
        if event.action is ItemAction.LABELED and event.label in history.triggers and by_person:
            if is_new:
                first = first or position
                application = event if is_open else application
            elif is_open:
                # An answered event after a new one: GitLab's other list was behind, and the new one was
                # before this one.
                withdrawn = None
        elif event.action is ItemAction.CLOSED or (
            event.action is ItemAction.UNLABELED
            and by_person
            and event.label in history.active
            and not labels & _asking(history, event, is_new_application=application is not None)
        ):
            withdrawn = withdrawn or (position if is_new else None)
            application = None
    return Wishes(first, withdrawn, application)


def _asking(history: ItemHistory, removed: ItemEvent, *, is_new_application: bool) -> frozenset[str]:
    """Return the labels that keep work going if the item still shows one after the removal of a label."""
    if removed.label in history.triggers or is_new_application:
        return history.active
    return history.active - history.triggers


def _state_before(history: ItemHistory) -> tuple[set[str], bool]:
    """Return the labels and whether the item was open before the first event, from what it shows now."""
    # We alone apply the other labels, and each time there is an event. If the history does not have it, it is
    # behind the item: the label was applied after the events that it shows.
    ours = history.active - history.triggers - {event.label for event in history.events}
    labels, is_open = set(history.present - ours), history.open
    for event in reversed(history.events):
        match event.action:
            case ItemAction.LABELED:
                labels.discard(event.label)
            case ItemAction.UNLABELED:
                labels.add(event.label)
            case ItemAction.CLOSED | ItemAction.REOPENED:
                is_open = event.action is ItemAction.CLOSED
    return labels, is_open


def _given_at_creation(history: ItemHistory) -> ItemEvent | None:
    """Return an application for a label that the item shows and that no event explains."""
    explained = {event.label for event in history.events}
    given = sorted((history.present & history.triggers) - explained)
    if not (given and history.open and history.complete and history.current):
        return None
    return ItemEvent(0, ItemAction.LABELED, given[0], "", datetime.min)


@dataclass(frozen=True)
class Run:
    """What the decision must know of a stored run of the item.

    Attributes:
        answered: the position up to which the run answers the item's events; `None` before the first read.
        by_label: whether an application of the label asked for it, and not a person's command.
        is_round: whether it is a round, which answers no application.
        ended: whether it starts no further attempt.
        cancelled: whether somebody asked to stop it.
    """

    name: str
    number: int
    answered: Position | None = None
    by_label: bool = True
    is_round: bool = False
    ended: bool = False
    cancelled: bool = False

    @property
    def works(self) -> bool:
        """Whether the run waits or works, and nobody asked to stop it."""
        return not self.ended and not self.cancelled


@dataclass(frozen=True)
class Decision:
    """What to do about an item's events.

    Attributes:
        position: the newest event that was read.
        withdraw: the names of runs to cancel, and the events that they then answer.
        duplicate: the name of a run that answers nothing, because another one is active.
        confirm: the names of runs, and the events that they answer.
        create: the application for which the item's next run is needed, which answers the events up to
            `position`.
        unsure: whether the history may lack the event that somebody reported. Read it again later.
    """

    position: Position
    withdraw: tuple[tuple[str, Position], ...] = ()
    duplicate: str | None = None
    confirm: tuple[tuple[str, Position], ...] = ()
    create: ItemEvent | None = None
    unsure: bool = False


def answered_before(runs: Sequence[Run], remembered: Position | None) -> Position | None:
    """Return the position up to which the item's past runs answer.

    Args:
        remembered: what the item's comment remembers of runs that were deleted.
    """
    return furthest([remembered, *(run.answered for run in runs if not run.works and not run.is_round)])


def decide(history: ItemHistory, runs: Sequence[Run], remembered: Position | None) -> Decision:
    """Decide what an item's events demand of its runs.

    Args:
        history: read after the runs.
        runs: all stored runs of the item.
        remembered: what the item's comment remembers of runs that were deleted.
    """
    answered = answered_before(runs, remembered)
    position = history.position(answered)
    # Two runs are active if a late webhook took a free name. The one before its first read answers nothing.
    active = [run for run in runs if run.works and not run.is_round]
    if len(active) > 1:
        unconfirmed_last = sorted(active, key=lambda run: (run.answered is None, run.number))
        return Decision(position, duplicate=unconfirmed_last[-1].name)
    withdraw: list[tuple[str, Position]] = []
    confirm: list[tuple[str, Position]] = []
    unsure = False
    for run in (run for run in runs if run.works):
        match _verdict(history, run, answered):
            case _Verdict.UNSURE:
                unsure = True
            case _Verdict.CONFIRM:
                confirm.append((run.name, position))
            case Position() as withdrawn:
                withdraw.append((run.name, withdrawn))
    unread = [run for run in runs if run.answered is None and not run.works and not run.is_round]
    if unread:
        # Nobody has looked since it was created, so it answers only the application that it was created for.
        first = wishes(history, answered).first
        for run in unread:
            if run.by_label and first is None and not history.current:
                unsure = True
            else:
                confirm.append((run.name, first if run.by_label and first is not None else position))
    # A run that is being stopped may still report what it has answered.
    is_free = history.open and not unread and all(run.ended for run in runs)
    create = wishes(history, answered).application if is_free else None
    # A label that the history does not explain may be an application that it does not show yet.
    unsure = unsure or (not active and not history.current and _shows_more(history))
    return Decision(position, tuple(withdraw), None, tuple(confirm), create, unsure)


class _Verdict(Enum):
    KEEP = auto()
    CONFIRM = auto()
    UNSURE = auto()


def _verdict(history: ItemHistory, run: Run, answered: Position | None) -> _Verdict | Position:
    """Return what becomes of an active run; a position if it is withdrawn as of that event.

    Args:
        answered: the position up to which the item's past runs answer.
    """
    position = history.position(answered)
    if run.answered is None and run.by_label and not run.is_round:
        # It answers what is asked for now, if anything is.
        if wishes(history, answered).application is not None:
            return _Verdict.CONFIRM
        if not history.open:
            return _closed_at(history, answered) or position
        return position if history.current and history.complete else _Verdict.UNSURE
    wish = wishes(history, run.answered or position)
    if wish.withdrawn is not None:
        return wish.withdrawn
    if not history.open:
        return _closed_at(history, run.answered or answered) or position
    if _lost_its_label(history, run):
        # No event explains it, for example because the label itself was deleted.
        return position if history.current else _Verdict.UNSURE
    return _Verdict.CONFIRM if run.answered is None or wish.application is not None else _Verdict.KEEP


def _shows_more(history: ItemHistory) -> bool:
    """Whether the open item shows a label that asks for a task, and no event has applied it last."""
    last = {event.label: event.action for event in history.events}
    shown = history.present & history.triggers
    return history.open and any(last.get(label) is not ItemAction.LABELED for label in shown)


def _closed_at(history: ItemHistory, base: Position | None) -> Position | None:
    """Return the position up to which a closed item's run answers, or the base if that is further.

    A label after the last closing may have been applied after a reopening that the history does not show yet.
    """
    closings = [place for place, event in enumerate(history.events) if event.action is ItemAction.CLOSED]
    if not closings:
        return base
    return replace(history, events=history.events[: closings[-1] + 1]).position(base)


def _lost_its_label(history: ItemHistory, run: Run) -> bool:
    """Whether the item shows no label of an active run although the last event applied one."""
    if run.is_round or not run.by_label or history.present & history.active:
        return False
    last = next((event for event in reversed(history.events) if event.label in history.active), None)
    return last is None or last.action is ItemAction.LABELED
