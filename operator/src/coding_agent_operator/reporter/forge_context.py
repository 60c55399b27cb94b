"""The dependencies that the reconciles and the scans of one forge share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakValueDictionary

from coding_agent_core.kubernetes.task_sink import StoreSink
from coding_agent_core.reporting.comment import Links
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.model import CommandName
from coding_agent_core.task.round_record import RerunEntry
from coding_agent_core.task.task_store import TaskStore
from coding_agent_forges.rest.forge import Forge

from coding_agent_operator.reporter.report import TaskMemory
from coding_agent_operator.reporter.under_way import UnderWay


class ItemLocks:
    """The locks of items, so that a reconcile and a scan do not write the same comment at the same time."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writers: WeakValueDictionary[str, TaskMemory] = WeakValueDictionary()

    def of(self, item: str) -> asyncio.Lock:
        """Return the lock of the item with this hash; it is kept while a task holds it or waits for it."""
        return self._locks.setdefault(item, asyncio.Lock())

    def write_next(self, item: str, memory: TaskMemory) -> None:
        """Let a run write the item's comment; it forgets the comment if another run has written it since."""
        # The other run may have been deleted, and then only the comment says what it answers.
        if self._writers.get(item) is not memory:
            memory.forget_comment()
        self._writers[item] = memory


@dataclass(frozen=True)
class ForgeContext:
    """The dependencies of the reconciles of one forge's tasks.

    Attributes:
        clocks: the times of the reporter that are no settings.
        clock: returns the aware time.
        monotonic: returns the monotonic time in seconds.
        notes: returns the notes of a change's rounds by the hash of the item.
        reruns: returns the checks of a change's head that scans asked to run again, by the hash of the item.
        change_rounds: returns the summary of the rounds of an issue's change, by the hash of the issue and
            the URL of the change.
        locks: are held while comments are read and written.
        under_way: counts the reconciles and scans that may write.
        commands: the commands in comments that count (`webhook.commands`).
    """

    forge: Forge
    labels: Labels
    links: Links
    tasks: TaskStore
    sink: StoreSink
    clocks: Development
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    notes: Callable[[str], tuple[str, ...]] = lambda _: ()
    reruns: Callable[[str], tuple[RerunEntry, ...]] = lambda _: ()
    change_rounds: Callable[[str, str], str] = lambda _, __: ""
    locks: ItemLocks = field(default_factory=ItemLocks)
    under_way: UnderWay = field(default_factory=UnderWay)
    commands: Collection[CommandName] = ()
