"""Decides which tasks may start, within exact limits and with one running task for each item. Pure.

Fair share comes first: the repository with the fewest running tasks is the next to start one. Among equal
repositories, and within a repository, the task with the highest priority is next, and waiting raises the
priority; then the oldest task. A task for which a budget has too little left is skipped.

With `queue.engine: kueue` Kueue keeps the limits instead (`with_kueue_labels` in `job.py`).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from coding_agent_core.task.agenttask import LABEL_ITEM, LABEL_REPOSITORY
from coding_agent_core.task.usage import Allowance

from coding_agent_operator.cluster.observed import Job, Pod
from coding_agent_operator.tasks.state import Stage

UNLIMITED = 2**63
"""Our own limit if Kueue keeps the limits."""


@dataclass(frozen=True)
class Candidate:
    """A task that has not ended, or an `Orphan` (then its stage is `ACTIVE`).

    Attributes:
        item: a value that identifies the item. One task of an item runs at a time, older runs first.
        repository: a value that identifies the repository.
        repository_limit: how many tasks of the repository may run at a time.
        budgets: the keys of the budgets that the task shares.
        demand: how much of each budget the task may spend, with its running attempts or with its next one.
        unread: whether the reporter has to read the item before the task may start.
    """

    name: str
    item: str
    repository: str
    created: datetime
    stage: Stage
    repository_limit: int = 0
    run: int = 1
    priority: int = 0
    budgets: tuple[str, ...] = ()
    demand: Decimal = Decimal(0)
    unread: bool = False

    def short_of(self, left: Mapping[str, Decimal]) -> str | None:
        """Return the first budget that is used up or has less left than the demand; `None` for none."""
        return next((key for key in self.budgets if self.demand > left[key] or left[key] <= 0), None)


@dataclass(frozen=True)
class Orphan:
    """A Job without a task, or a pod without a Job. It still runs, so it counts as a task of its item.

    `kubectl delete agenttask` leaves both: in the background, the garbage collector deletes the Job after the
    task and the pods after the Job, and each pod has its grace time.

    Attributes:
        name: `job/NAME` or `pod/NAME`.
        item, repository: the same values as in a `Candidate`.
        allowance: how much the orphan may spend; `None` if there is no limit.
    """

    name: str
    item: str
    repository: str
    created: datetime
    allowance: Allowance | None = None


def orphans_of(
    jobs: Sequence[Job], pods: Sequence[Pod], *, known: Collection[str], open_attempts: Collection[str]
) -> list[Orphan]:
    """Return the unfinished Jobs without a task and the pods that neither a Job nor a task counts.

    Args:
        jobs: the Jobs that no task owns.
        pods: the pods that have not ended.
        known: the uids of all Jobs. The pods of these Jobs are counted with the Job or its task.
        open_attempts: the names of the Jobs of attempts whose end is not recorded. The tasks of these
            attempts count as running until then, even without a Job.
    """
    orphans = {
        job.uid: Orphan(
            name=f"job/{job.name}",
            item=job.labels.get(LABEL_ITEM, job.name),
            repository=job.labels.get(LABEL_REPOSITORY, ""),
            created=job.created,
            allowance=job.allowance,
        )
        for job in jobs
        if not job.finished
    }
    for pod in pods:
        # A pod whose attempt is still open is counted with its task.
        if pod.job_uid not in known and pod.job_name not in open_attempts:
            orphan = Orphan(
                f"pod/{pod.name}", pod.item or pod.name, pod.repository, pod.created, pod.allowance
            )
            orphans.setdefault(pod.job_uid or pod.name, orphan)
    return list(orphans.values())


class Limited(StrEnum):
    """The limit that keeps a task waiting. The repository's limit comes first: no free place helps then."""

    REPOSITORY = "repository"
    GLOBAL = "global"


@dataclass(frozen=True)
class Schedule:
    """Which tasks may start now, in this order, and what the others wait for, by task name.

    Attributes:
        positions: the exact place in the queue, from 1, of every task that waits for its turn.
        after: the older run of the same item that a waiting task waits for.
        limited: the limit that keeps a task waiting which waits for no other run of its item.
        short: the budget of which ended attempts have left too little for a waiting task.
        left: what is left of each budget, by the budget's key, after the tasks that run and those that start.
    """

    start: tuple[str, ...] = ()
    positions: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    limited: Mapping[str, Limited] = field(default_factory=dict)
    short: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, Decimal] = field(default_factory=dict)


def fair_schedule(
    candidates: Sequence[Candidate],
    global_limit: int,
    now: datetime,
    *,
    aging: float,
    unspent: Mapping[str, Decimal] | None = None,
) -> Schedule:
    """Decide which tasks may start.

    Args:
        candidates: every task that has not ended and every orphan; none may be missing.
        global_limit: how many tasks may run at a time in total.
        aging: seconds of waiting that raise a priority by one.
        unspent: what ended attempts have left of each budget that a task shares, by the budget's key.

    Example:
        waiting = Candidate("task", "item", "repository", now, Stage.READY, repository_limit=1)
        assert fair_schedule([waiting], 10, now, aging=600).start == ("task",)
    """
    left = dict(unspent or {})
    first = _first_of_items(candidates)
    running: dict[str, int] = defaultdict(int)
    for task in candidates:
        if task.stage is Stage.ACTIVE:
            # An attempt's whole allowance counts until it ends, so parallel tasks cannot exceed a budget.
            running[task.repository] += 1
            _reserve(left, task)
    waiting = [task for task in candidates if task.stage is Stage.READY]
    free = [task for task in waiting if first[task.item] is task and not task.unread]
    capacity = max(0, global_limit - sum(running.values()))
    start = [task.name for task in _fairly(free, running, now, aging, left=left, most=capacity)]
    started = set(start)
    rest = [task for task in free if task.name not in started]
    is_full = sum(running.values()) >= global_limit
    limited = {
        task.name: Limited.REPOSITORY if running[task.repository] >= task.repository_limit else Limited.GLOBAL
        for task in rest
        if is_full or running[task.repository] >= task.repository_limit
    }
    # They come last: whatever ends, they still wait for a run of their own item.
    blocked = [task for task in waiting if first[task.item] is not task or task.unread]
    order = [*_fairly(rest, running, now, aging), *_fairly(blocked, running, now, aging)]
    return Schedule(
        start=tuple(start),
        positions={task.name: place for place, task in enumerate(order, start=1)},
        after={task.name: first[task.item].name for task in blocked if first[task.item] is not task},
        limited=limited,
        short={task.name: key for task in order if (key := task.short_of(unspent or {})) is not None},
        left=left,
    )


def coarse(position: int) -> int:
    """Return a position as people see it: exact up to 10, rounded up to tens up to 100, then to hundreds.

    When the first of 1,000 waiting tasks starts, all others move, but only about 28 shown positions change.
    """
    step = 1 if position <= 10 else 10 if position <= 100 else 100
    return -(-position // step) * step


def _first_of_items(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return each item's next task: its running task, or the oldest run that has not ended if none runs."""
    first: dict[str, Candidate] = {}
    for task in candidates:
        if task.stage is Stage.ENDED:
            continue
        known = first.get(task.item)
        if known is None or _precedence(task) < _precedence(known):
            first[task.item] = task
    return first


def _precedence(task: Candidate) -> tuple[bool, bool, int, datetime, str]:
    return task.stage is not Stage.ACTIVE, task.unread, task.run, task.created, task.name


def _fairly(
    tasks: Sequence[Candidate],
    running: dict[str, int],
    now: datetime,
    aging: float,
    *,
    left: dict[str, Decimal] | None = None,
    most: int | None = None,
) -> list[Candidate]:
    """Return the tasks in the order of their turns, and count them in `running`.

    Args:
        left: what is left of each budget. Tasks that would exceed a budget or their repository's limit are
            left out, and the demand of the others is subtracted. If it is `None`, no task is left out.
        most: the maximum number of tasks to return; `None` for all.
    """

    def rank(task: Candidate) -> tuple[float, datetime, str]:
        # Waiting raises the priority, so that no task waits forever.
        waited = max(0.0, (now - task.created).total_seconds())
        return -(task.priority + waited // aging), task.created, task.name

    queues: dict[str, list[tuple[tuple[float, datetime, str], int]]] = defaultdict(list)
    for index, task in enumerate(tasks):
        queues[task.repository].append((rank(task), index))
    heap: list[tuple[int, tuple[float, datetime, str], int, str]] = []

    def offer(place: str) -> None:
        queue = queues[place]
        # A task that is too expensive now must not keep a cheaper one of its repository waiting.
        while queue and left is not None and tasks[queue[-1][1]].short_of(left) is not None:
            queue.pop()
        if not queue or (left is not None and running[place] >= tasks[queue[-1][1]].repository_limit):
            return
        heapq.heappush(heap, (running[place], *queue.pop(), place))

    for place, queue in queues.items():
        queue.sort(reverse=True)
        offer(place)
    order: list[Candidate] = []
    while heap and (most is None or len(order) < most):
        _, _, index, place = heapq.heappop(heap)
        if left is None or tasks[index].short_of(left) is None:
            order.append(tasks[index])
            running[place] += 1
            if left is not None:
                _reserve(left, tasks[index])
        offer(place)
    return order


def _reserve(left: dict[str, Decimal], task: Candidate) -> None:
    for key in task.budgets:
        left[key] -= task.demand
