"""Who may start: exact limits, one running task for each item, fair share, priority with aging. Pure.

Fair share comes first: of the repositories that could start a task, the one with the fewest running does.
Among equals, and within a repository, the higher priority does, and waiting raises it; then the older task.
A task for which a budget leaves too little is passed over.

With `queue.engine: kueue` Kueue keeps the limits instead (`with_kueue_labels` in `job.py`).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from coding_agent_core.agenttask import LABEL_ITEM, LABEL_REPOSITORY
from coding_agent_core.usage import Allowance

from coding_agent_operator.observed import Job, Pod
from coding_agent_operator.task_state import Stage

UNLIMITED = 2**63
"""A limit where Kueue keeps the limits."""


@dataclass(frozen=True)
class Candidate:
    """A task that has not ended, or an `Orphan` (then it is `ACTIVE`).

    Attributes:
        item: one value for each item: of an item one task runs at a time, the older run first.
        repository: one value for each repository.
        limit: how many tasks of the repository may run at a time.
        budgets: keys of the budgets that it shares.
        demand: what it may spend of each: the next attempt of a task that waits, or those that run.
    """

    name: str
    item: str
    repository: str
    created: datetime
    stage: Stage
    limit: int = 0
    run: int = 1
    priority: int = 0
    budgets: tuple[str, ...] = ()
    demand: Decimal = Decimal(0)

    def short_of(self, left: Mapping[str, Decimal]) -> str | None:
        """The first of its budgets that leaves too little; one of which nothing is left always does."""
        return next((key for key in self.budgets if self.demand > left[key] or left[key] <= 0), None)


@dataclass(frozen=True)
class Orphan:
    """A Job without a task, or a pod without a Job. It works on, so it counts as a running task of its item.

    `kubectl delete agenttask` leaves both: in the background the garbage collector deletes the Job after the
    task, and the pods after the Job, and a pod has its grace time.

    Attributes:
        name: `job/NAME` or `pod/NAME`.
        item, repository: as of a `Candidate`.
        allowance: what it may spend; `None`: as much as it needs.
    """

    name: str
    item: str
    repository: str
    created: datetime
    allowance: Allowance | None = None


def orphans_of(
    jobs: Sequence[Job], pods: Sequence[Pod], *, known: Collection[str], open_attempts: Collection[str]
) -> list[Orphan]:
    """What runs although no task and no Job shows it.

    Args:
        jobs: that no task owns.
        pods: that have not ended.
        known: uids of all Jobs; they or their tasks count for their pods.
        open_attempts: names of the Jobs of attempts whose end no task has recorded: their tasks count as
            running until then, also without a Job.
    """
    found = {
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
        if pod.job_uid not in known and pod.job_name not in open_attempts:
            orphan = Orphan(
                f"pod/{pod.name}", pod.item or pod.name, pod.repository, pod.created, pod.allowance
            )
            found.setdefault(pod.job_uid or pod.name, orphan)
    return list(found.values())


@dataclass(frozen=True)
class Schedule:
    """What may start now, in this order, and who waits where.

    Attributes:
        positions: exact place in the queue, from 1, of every task that waits for its turn.
        after: the older run of its item that a waiting task waits for.
        short: the budget that ended attempts have left too little of for a waiting task.
        left: of each budget, after the tasks that run and those that start.
    """

    start: tuple[str, ...] = ()
    positions: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    short: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, Decimal] = field(default_factory=dict)


def fair_schedule(
    candidates: Sequence[Candidate],
    limit: int,
    now: datetime,
    *,
    aging: float,
    unspent: Mapping[str, Decimal] | None = None,
) -> Schedule:
    """Decide who may start.

    Args:
        candidates: every task that has not ended and every Job that runs; nothing may be missing.
        limit: how many may run at a time in all.
        aging: seconds of waiting that raise a priority by one.
        unspent: of each budget that a task shares, what ended attempts have not spent.
    """
    left = dict(unspent or {})
    first = _first_of_items(candidates)
    running: dict[str, int] = defaultdict(int)
    for task in candidates:
        if task.stage is Stage.ACTIVE:
            running[task.repository] += 1
            _reserve(left, task)
    waiting = [task for task in candidates if task.stage is Stage.READY]
    free = [task for task in waiting if first[task.item] is task]
    capacity = max(0, limit - sum(running.values()))
    start = [task.name for task in _fairly(free, running, now, aging, left=left, most=capacity)]
    started = set(start)
    rest = [task for task in free if task.name not in started]
    blocked = [task for task in waiting if first[task.item] is not task]
    order = [*_fairly(rest, running, now, aging), *_fairly(blocked, running, now, aging)]
    return Schedule(
        start=tuple(start),
        positions={task.name: place for place, task in enumerate(order, start=1)},
        after={task.name: first[task.item].name for task in blocked},
        short={task.name: key for task in order if (key := task.short_of(unspent or {})) is not None},
        left=left,
    )


def coarse(position: int) -> int:
    """A position as shown: exact to 10, then rounded up to tens, from 100 on to hundreds.

    When the first of 1,000 waiting tasks starts, all others move; shown like this, about 28 of them change.
    """
    step = 1 if position <= 10 else 10 if position <= 100 else 100
    return -(-position // step) * step


def _first_of_items(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Of each item the task whose turn it is: the one that runs, else the oldest run that has not ended."""
    first: dict[str, Candidate] = {}
    for task in candidates:
        if task.stage is Stage.ENDED:
            continue
        known = first.get(task.item)
        if known is None or _precedence(task) < _precedence(known):
            first[task.item] = task
    return first


def _precedence(task: Candidate) -> tuple[bool, int, datetime, str]:
    return task.stage is not Stage.ACTIVE, task.run, task.created, task.name


def _fairly(
    tasks: Sequence[Candidate],
    running: dict[str, int],
    now: datetime,
    aging: float,
    *,
    left: dict[str, Decimal] | None = None,
    most: int | None = None,
) -> list[Candidate]:
    """The tasks in the order in which they get their turn; what is taken is added to `running`.

    Args:
        left: of each budget; leave out what would exceed a budget or a repository's limit. What is taken is
            subtracted. `None`: leave out nothing.
        most: not more than this many.
    """

    def rank(task: Candidate) -> tuple[float, datetime, str]:
        waited = max(0.0, (now - task.created).total_seconds())
        return -(task.priority + waited // aging), task.created, task.name

    queues: dict[str, list[tuple[tuple[float, datetime, str], int]]] = defaultdict(list)
    for index, task in enumerate(tasks):
        queues[task.repository].append((rank(task), index))
    heap: list[tuple[int, tuple[float, datetime, str], int, str]] = []

    def offer(place: str) -> None:
        queue = queues[place]
        while queue and left is not None and tasks[queue[-1][1]].short_of(left) is not None:
            queue.pop()
        if not queue or (left is not None and running[place] >= tasks[queue[-1][1]].limit):
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
