"""An item's part of a history: what people asked for and took back, and the work that belongs to it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from tests.chaos.history import Act, History, ItemKey, Run
from tests.chaos.promises import CLOSING, Promises, command_of, is_branch_of

_LABELS = ("labeled", "unlabeled")
_COMMANDS = ("/run", "/retry")


@dataclass(frozen=True)
class Request:
    """Something that asks for a run.

    Attributes:
        applied: when the label was applied. It is older than the request if the item was opened again while
            it still had the label: the poll finds it, and no webhook says that anybody applied it.
        kind: `label`, `command` or `reopened`. Only a label must have a run. Whether a command has one
            depends on the state in which it finds the item.
    """

    at: datetime
    actor: str
    kind: str
    applied: datetime

    @property
    def required(self) -> bool:
        return self.kind == "label"


@dataclass(frozen=True)
class Item:
    """An item's part of the history.

    Attributes:
        pushes: of the bot to a branch for the item, without those of rounds: they are the change's work.
        asked_runs: without rounds, for which nobody asks.
        withdrawals: when nobody wanted its work any more.
    """

    key: ItemKey
    acts: Sequence[Act]
    pushes: Sequence[Act]
    runs: Sequence[Run]
    asked_runs: Sequence[Run]
    requests: Sequence[Request]
    withdrawals: Sequence[Act]


@dataclass(frozen=True)
class Items:
    """All items of a history, and the branches on which their work is."""

    history: History
    promises: Promises

    @cached_property
    def all(self) -> Mapping[ItemKey, Item]:
        """By their keys."""
        acts: dict[ItemKey, list[Act]] = {}
        for act in self.history.acts:
            if act.item is not None:
                acts.setdefault(act.item, []).append(act)
        keys = sorted(acts.keys() | set(self.history.runs))
        return {key: self._item(key, acts.get(key, [])) for key in keys}

    @cached_property
    def changes(self) -> Mapping[ItemKey, Act]:
        """How each change was opened."""
        return {
            act.item: act
            for act in self.history.acts
            if act.event == "opened" and act.item is not None and act.item.kind == "change"
        }

    def changes_of(self, key: ItemKey) -> list[Act]:
        """How the bot opened the changes of an issue, oldest first."""
        return [
            act
            for change, act in self.changes.items()
            if change[:2] == key[:2]
            and act.actor == self.promises.bot
            and is_branch_of(act.branch, key, self.promises)
        ]

    def owners(self, repository: tuple[str, str], branch: str) -> list[ItemKey]:
        """The items whose work belongs on a branch: an issue, and the changes that were opened from it."""
        return [
            key
            for key in self.all
            if key[:2] == repository
            and (is_branch_of(branch, key, self.promises) or self._is_from(key, branch))
        ]

    def issue_of(self, change: ItemKey) -> Item | None:
        """The issue for which the bot opened a change."""
        opened = self.changes.get(change)
        if opened is None or opened.actor != self.promises.bot:
            return None
        owners = self.owners(change[:2], opened.branch)
        return next((self.all[key] for key in owners if key.kind == "issue"), None)

    def _is_from(self, key: ItemKey, branch: str) -> bool:
        return key in self.changes and self.changes[key].branch == branch

    def _item(self, key: ItemKey, acts: Sequence[Act]) -> Item:
        history, promises = self.history, self.promises
        runs = history.runs.get(key, ())
        on_branch = [
            act
            for act in history.acts
            if act.actor == promises.bot
            and act.repository == key[:2]
            and is_branch_of(act.branch, key, promises)
        ]
        changes = {act.item for act in on_branch if act.event == "opened" and act.item is not None}
        rounds = [run for change in changes for run in history.runs.get(change, ()) if run.round is not None]
        pushes = [
            act
            for act in on_branch
            if act.event == "pushed" and (is_within(act, runs) or not is_within(act, rounds))
        ]
        asked = [run for run in runs if run.round is None]
        requests, withdrawals = list(_requests(acts, promises)), list(_withdrawals(acts, promises))
        return Item(key, acts, pushes, runs, asked, requests, withdrawals)


def is_within(push: Act, runs: Sequence[Run]) -> bool:
    """Whether an attempt of one of these runs worked as somebody pushed."""
    return any(
        pod.started <= push.at and (pod.ended is None or push.at <= pod.ended)
        for run in runs
        for pod in run.pods
    )


def requests_of(key: ItemKey, history: History, promises: Promises) -> list[datetime]:
    """When people asked for work on the item, oldest first."""
    acts = [act for act in history.acts if act.item == key]
    return [request.at for request in _requests(acts, promises)]


def _requests(acts: Iterable[Act], promises: Promises) -> Iterator[Request]:
    applied: dict[str, Act] = {}
    for act in acts:
        triggers = act.event in _LABELS and act.label in promises.triggers
        if triggers and act.event == "labeled":
            applied[act.label] = act
        elif triggers:
            applied.pop(act.label, None)
        if act.actor == promises.bot:
            continue
        if triggers and act.event == "labeled":
            yield Request(act.at, act.actor, "label", act.at)
        elif act.event == "commented" and command_of(act) in _COMMANDS and act.actor in promises.members:
            yield Request(act.at, act.actor, "command", act.at)
        elif act.event == "reopened" and applied:
            newest = max(applied.values(), key=lambda one: one.at)
            yield Request(act.at, newest.actor, "reopened", newest.at)


def _withdrawals(acts: Iterable[Act], promises: Promises) -> Iterator[Act]:
    asking = promises.triggers | {promises.processing}
    shown: set[str] = set()
    for act in acts:
        if act.event in _LABELS and act.label in asking:
            (shown.add if act.event == "labeled" else shown.discard)(act.label)
        cancel = act.event == "commented" and command_of(act) == "/cancel" and act.actor in promises.members
        went = act.event == "unlabeled" and act.label in asking and not shown
        if act.actor != promises.bot and (cancel or went or act.event in CLOSING):
            yield act
