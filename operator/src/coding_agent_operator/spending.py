"""What the tasks of a namespace spend of the budgets that they share: the input of `fair_schedule`.

Active tasks are counted from the caches. Those that ended are read once at the start, and counted as they
end; the sweep keeps them until the period is over in which a budget counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from coding_agent_core.agenttask import ENDED, LABEL_REPOSITORY
from coding_agent_core.settings.operator import Budgets
from coding_agent_core.usage import Allowance

from coding_agent_operator import metrics
from coding_agent_operator.budgets import (
    NAMESPACE,
    OTHER_UNIT,
    Charges,
    Exhausted,
    Spent,
    charges,
    day_of,
    exhausted,
    in_another_unit,
    next_allowance,
    period_end,
    read_spent,
    reserved,
)
from coding_agent_operator.cluster import Cluster
from coding_agent_operator.observed import Job, Task
from coding_agent_operator.task_state import Stage

_PAGE = 500
_ONE_DAY = timedelta(days=1)


class Spending:
    """Counts what a namespace's tasks have spent and may still spend."""

    def __init__(self, cluster: Cluster, budgets: Budgets, now: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._budgets = budgets
        self._now = now
        self._spent = Spent()
        self._day = day_of(now())
        self._limits: dict[str, Allowance] = {}
        """By key, the budgets that are shared by any task that was seen."""
        self._names: dict[str, str] = {NAMESPACE: ""}
        self._open: dict[str, tuple[str, dict[date, dict[str, Decimal]]]] = {}
        """By uid, what tasks count with that were active in the last pass: one may be deleted by hand."""
        if budgets.namespace is not None:
            self._limits[NAMESPACE] = budgets.namespace

    async def load(self) -> None:
        """Read what tasks spent that ended in the current periods.

        Raises:
            ApiError: the API server refused that or did not answer.
        """
        if not self._budgets.shared:
            return
        today = day_of(self._now())
        first = today.replace(day=1) if self._budgets.namespace is not None else today
        days = [first + number * _ONE_DAY for number in range((today - first).days + 2)]
        # A field selector cannot name several values. A task with its own ttlSecondsAfterFinished has no day.
        for fields in (*(f"status.keptSince={day}" for day in days), f"{ENDED},status.keptSince="):
            async for page in self._cluster.tasks.pages(fields, _PAGE):
                for body in page:
                    self._spent.put(*read_spent(body))

    def ended(self, task: Task) -> None:
        """A task has ended, and its status is stored."""
        if self._budgets.shared:
            self._spent.put(task.uid, task.repository, charges(task.status.attempts))

    def share(
        self, task: Task, own: Sequence[Job], stage: Stage, *, granted: bool
    ) -> tuple[tuple[str, ...], Decimal]:
        """The keys of the budgets that a task shares, and what it may spend of each."""
        budgets, source = self._budgets, task.spec.source
        if not budgets.shared:
            return (), Decimal(0)
        keys = []
        repository = budgets.of(source.host, source.repository)
        if repository is not None:
            self._limits[task.repository] = repository
            self._names[task.repository] = source.repository
            keys.append(task.repository)
        if budgets.namespace is not None:
            keys.append(NAMESPACE)
        if keys and in_another_unit(task, budgets):
            keys.insert(0, OTHER_UNIT)
        demand = reserved(task, own, budgets) if stage is not Stage.READY else Decimal(0)
        if not demand and (granted or stage is Stage.READY):
            allowance = next_allowance(task, budgets)
            demand = allowance.value if allowance is not None else demand
        return tuple(keys), demand

    def share_of_orphan(self, job: Job) -> tuple[tuple[str, ...], Decimal]:
        """The same of a Job without a task."""
        keys = [key for key in (job.labels.get(LABEL_REPOSITORY), NAMESPACE) if key in self._limits]
        return tuple(filter(None, keys)), job.allowance.value if job.allowance is not None else Decimal(0)

    def unspent(self, tasks: Iterable[Task], demands: Mapping[str, Decimal]) -> dict[str, Decimal]:
        """By budget, what ended attempts have not spent in the current period.

        Args:
            tasks: all active tasks.
            demands: by name, what those that run may still spend.
        """
        if not self._budgets.shared:
            return {}
        today = day_of(self._now())
        if today != self._day:
            self._spent.forget_before(today)
            self._day = today
        unit = self._unit
        spent = {key: self._spent.of(key, today, unit) for key in self._limits}
        before, self._open = self._open, {}
        for task in tasks:
            if not task.status.attempts and task.name not in demands:
                continue
            before.pop(task.uid, None)
            if task.uid in self._spent:
                continue  # it has ended
            found = charges(task.status.attempts)
            _add(spent, task.repository, found, today, unit)
            if demand := demands.get(task.name):
                units = found.setdefault(today, {})
                units[unit] = units.get(unit, Decimal(0)) + demand
            self._open[task.uid] = task.repository, found
        for uid, (repository, found) in before.items():
            if uid not in self._spent:
                self._spent.put(uid, repository, found)  # deleted while it ran: it may have spent it all
                _add(spent, repository, found, today, unit)
        return {OTHER_UNIT: Decimal(0)} | {
            key: limit.value - spent.get(key, Decimal(0)) for key, limit in self._limits.items()
        }

    def exhausted(self, task: Task, key: str) -> Exhausted:
        """What the status of a task says that waits for a budget."""
        source = task.spec.source
        allowance = next_allowance(task, self._budgets) or Allowance(tokens=0)
        return exhausted(key, source.repository, self._limits.get(key), allowance, self._now())

    @property
    def next_period(self) -> float | None:
        """Seconds until a period ends."""
        if not self._budgets.shared:
            return None
        now = self._now()
        return max(1.0, (period_end("", day_of(now)) - now).total_seconds())

    def show(self, namespace: str, unspent: Mapping[str, Decimal], left: Mapping[str, Decimal]) -> None:
        """Show the budgets as metrics."""
        for key, limit in self._limits.items():
            rest = unspent.get(key, limit.value)
            metrics.show_budget(
                namespace,
                self._names[key],
                limit,
                spent=limit.value - rest,
                reserved=rest - left.get(key, rest),
            )

    @property
    def _unit(self) -> str:
        return (self._budgets.task or Allowance(tokens=0)).unit


def _add(spent: dict[str, Decimal], repository: str, found: Charges, today: date, unit: str) -> None:
    """Add what a task spent to the budgets that it shares."""
    for key in (repository, NAMESPACE):
        if key in spent:
            spent[key] += sum(
                (units.get(unit, Decimal(0)) for day, units in found.items() if _same(key, day, today)),
                Decimal(0),
            )


def _same(key: str, day: date, today: date) -> bool:
    """Both days are in one period of the budget."""
    return (day.year, day.month) == (today.year, today.month) if key == NAMESPACE else day == today
