"""Budgets: the spending of ended attempts, the reservations of running ones, and the rest. Pure.

Reservations keep the spending within the budgets (docs/decisions/0023). An attempt starts only if every
budget that it shares has the attempt's whole allowance left. Until the attempt ends, its whole allowance
counts. Then only what it spent counts, in the day and month of its end, and the rest is free again. So the
spending of a period exceeds its budget at most by the cost of the model's answers under way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from coding_agent_core.settings.operator import Budgets
from coding_agent_core.task.agenttask import ENDED, LABEL_REPOSITORY, AgentTask, AttemptStatus
from coding_agent_core.task.usage import Allowance

from coding_agent_operator.cluster.observed import Job

NAMESPACE = "namespace"
"""Key of the namespace's budget. The key of a repository's budget is the hash in the label of its tasks."""
OTHER_UNIT = "unit"
"""Stands for a budget's key if the task's own budget has a different unit from the budgets that it shares."""
Charges = Mapping[date, Mapping[str, Decimal]]
"""Amounts spent, by day (UTC) and unit (a currency or `tokens`)."""
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Exhausted:
    """The explanation that a budget has too little left for a task.

    Attributes:
        message: the explanation for people.
        until: when the budget's period ends; `None` if waiting does not help.
    """

    message: str
    until: datetime | None = None


class Spent:
    """The sum of what the ended tasks of a namespace spent; each task counts once."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, date, str], Decimal] = defaultdict(Decimal)
        self._tasks: dict[str, tuple[str, Charges]] = {}

    def put(self, uid: str, repository: str, charges: Charges) -> None:
        """Count a task's charges instead of those that were counted for it before."""
        self._count(*self._tasks.pop(uid, (repository, {})), -1)
        if charges:
            self._tasks[uid] = repository, charges
            self._count(repository, charges, 1)

    def of(self, key: str, day: date, unit: str) -> Decimal:
        """Return what a budget's tasks spent in the period that contains the day."""
        return self._totals.get((key, _first(key, day), unit), Decimal(0))

    def forget_before(self, day: date) -> None:
        """Drop the charges of months that ended before this day."""
        first = day.replace(day=1)
        tasks, self._tasks = self._tasks, {}
        self._totals.clear()
        for uid, (repository, charges) in tasks.items():
            self.put(uid, repository, {day: units for day, units in charges.items() if day >= first})

    def __contains__(self, uid: str) -> bool:
        return uid in self._tasks

    def _count(self, repository: str, charges: Charges, sign: int) -> None:
        for day, units in charges.items():
            for unit, value in units.items():
                self._totals[repository, day, unit] += sign * value
                self._totals[NAMESPACE, _first(NAMESPACE, day), unit] += sign * value


def day_of(at: datetime) -> date:
    return at.astimezone(UTC).date()


def period_end(key: str, day: date) -> datetime:
    """Return the end of a budget's period that contains the day."""
    after = (day.replace(day=28) + 4 * _ONE_DAY).replace(day=1) if key == NAMESPACE else day + _ONE_DAY
    return datetime.combine(after, time(), UTC)


def charge(attempt: AttemptStatus) -> dict[str, Decimal]:
    """Return what an ended attempt spent, by unit; its whole allowance if the spending is not known."""
    spent: dict[str, Decimal] = {}
    usage, allowance = attempt.usage, attempt.allowance
    if usage is not None and usage.requests:
        spent["tokens"] = Decimal(usage.input_tokens + usage.output_tokens)
        if usage.cost is not None:
            spent[usage.cost.currency] = Decimal(usage.cost.amount)
    if allowance is not None and allowance.spent(usage) is None:
        # What is unknown may be all of it, and a budget must never be exceeded unseen.
        spent[allowance.unit] = allowance.value
    return spent


def charges(attempts: Iterable[AttemptStatus]) -> dict[date, dict[str, Decimal]]:
    """Return what the ended attempts of a task spent."""
    by_day: dict[date, dict[str, Decimal]] = {}
    for attempt in attempts:
        if attempt.outcome is None or attempt.completion_time is None:
            continue
        units = by_day.setdefault(day_of(attempt.completion_time), {})
        for unit, value in charge(attempt).items():
            units[unit] = units.get(unit, Decimal(0)) + value
    return {day: units for day, units in by_day.items() if units}


def next_allowance(task: AgentTask, budgets: Budgets) -> Allowance | None:
    """Return what the next attempt of a task may spend: what earlier attempts left of the task's budget.

    The allowance is never larger than a budget that the task shares, as that budget never has more left.
    """
    budget = task.spec.budget or budgets.task
    if budget is None:
        return None
    # The newest attempt knows what all earlier ones left.
    for attempt in reversed(task.status.attempts):
        if attempt.allowance is not None and attempt.allowance.unit == budget.unit:
            budget = _rest(attempt.allowance, attempt)
            break
    source = task.spec.source
    for shared in (budgets.of(source.host, source.repository), budgets.namespace):
        if shared is not None and shared.unit == budget.unit:
            # A task that may spend more than a whole day's budget would wait for ever.
            budget = budget.with_value(min(budget.value, shared.value))
    return budget


def used_up(attempts: Sequence[AttemptStatus]) -> Allowance | None:
    """Return the allowance of the last attempt if the attempt spent all of it."""
    last = attempts[-1] if attempts else None
    if (
        last is None
        or last.allowance is None
        or last.outcome is None
        or _rest(last.allowance, last).value > 0
    ):
        return None
    return last.allowance


def _rest(allowance: Allowance, attempt: AttemptStatus) -> Allowance:
    """Return what the attempt left of its allowance."""
    return allowance.with_value(allowance.value - charge(attempt).get(allowance.unit, Decimal(0)))


def reserved(task: AgentTask, jobs: Sequence[Job], budgets: Budgets) -> Decimal:
    """Return what the attempts whose end is not recorded may still spend, in the unit of the budgets."""
    open_ = {a.number: a.allowance for a in task.status.attempts if a.outcome is None}
    recorded = {a.number for a in task.status.attempts if a.outcome is not None}
    for job in jobs:
        if job.number not in recorded and job.verify is None:  # evidence pods have no model
            open_[job.number or 0] = job.allowance or open_.get(job.number or 0)
    return sum((_value(allowance, budgets) for allowance in open_.values()), Decimal(0))


def _value(allowance: Allowance | None, budgets: Budgets) -> Decimal:
    """Return an allowance in the unit of the budgets; one in another unit counts as a task's whole budget."""
    whole = budgets.task or Allowance(tokens=0)
    return allowance.value if allowance is not None and allowance.unit == whole.unit else whole.value


def counted_until(ended: datetime, repository: tuple[str, str], budgets: Budgets) -> datetime | None:
    """Return the time until which an ended task must be kept, because a budget counts what it spent.

    Args:
        repository: the repository's host and path.
    """
    if budgets.namespace is not None:
        return period_end(NAMESPACE, day_of(ended))
    return period_end("", day_of(ended)) if budgets.of(*repository) is not None else None


def exhausted(
    key: str, repository: str, budget: Allowance | None, allowance: Allowance, now: datetime
) -> Exhausted:
    """Explain that a budget has less left than a task may spend."""
    if budget is None:
        return Exhausted(
            f"The task's own budget is in {allowance.unit}, but the budgets that it shares are not, so they "
            "cannot be compared. Create the task again with a `budget` in their unit."
        )
    until = period_end(key, day_of(now))
    whose = "this namespace" if key == NAMESPACE else repository
    period = "month" if key == NAMESPACE else "day"
    return Exhausted(
        f"The budget of {whose} ({budget} a {period}) has less left than the {allowance} that the task may "
        f"spend. The task waits until {until:%Y-%m-%d %H:%M} UTC.",
        until,
    )


class Spending:
    """Counts what a namespace's tasks have spent and may still spend: the input of `fair_schedule`.

    Active tasks are counted from the caches. Tasks that ended before the start are read once (`selectors`,
    `put`); later ones are counted as they end. The sweep keeps ended tasks as long as a budget counts them.
    """

    def __init__(self, budgets: Budgets, now: Callable[[], datetime]) -> None:
        self._budgets = budgets
        self._now = now
        self._spent = Spent()
        self._day = day_of(now())
        self._limits: dict[str, Allowance] = {}
        """The budgets that tasks seen so far share, by key."""
        self._names: dict[str, str] = {NAMESPACE: ""}
        self._open: dict[str, tuple[str, dict[date, dict[str, Decimal]]]] = {}
        """Repository, and charges with reservations, of tasks active in the last pass, by uid. If somebody
        deletes such a task, they still count."""
        if budgets.namespace is not None:
            self._limits[NAMESPACE] = budgets.namespace

    def selectors(self) -> list[str]:
        """Return field selectors for the tasks that ended in the current periods."""
        if not self._budgets.shared:
            return []
        today = day_of(self._now())
        first = today.replace(day=1) if self._budgets.namespace is not None else today
        days = [first + number * _ONE_DAY for number in range((today - first).days + 2)]
        # A field selector cannot name several values. A task with its own ttlSecondsAfterFinished has no day.
        return [*(f"status.keptSince={day}" for day in days), f"{ENDED},status.keptSince="]

    def put(self, task: AgentTask) -> None:
        """Count an ended task as it is stored, even if another release wrote its spec."""
        by_label = task.metadata.labels.get(LABEL_REPOSITORY) or ""
        repository = task.repository_hash if task.readable else by_label
        self._spent.put(task.uid, repository, charges(task.status.attempts))

    def ended(self, task: AgentTask) -> None:
        """Count a task that has just ended and whose status is stored."""
        if self._budgets.shared:
            self._spent.put(task.uid, task.repository_hash, charges(task.status.attempts))

    def share(self, task: AgentTask, own: Sequence[Job], *, starts: bool) -> tuple[tuple[str, ...], Decimal]:
        """Return the keys of the budgets that a task shares, and what the task may spend of each.

        Args:
            starts: whether the task's next attempt may start or has just been allowed to start.
        """
        budgets, source = self._budgets, task.spec.source
        if not budgets.shared:
            return (), Decimal(0)
        keys = []
        repository = budgets.of(source.host, source.repository)
        if repository is not None:
            self._limits[task.repository_hash] = repository
            self._names[task.repository_hash] = source.repository
            keys.append(task.repository_hash)
        if budgets.namespace is not None:
            keys.append(NAMESPACE)
        if keys and task.spec.budget and budgets.task and task.spec.budget.unit != budgets.task.unit:
            # Money and tokens cannot be compared, so such a task never starts, and its status says why.
            keys.insert(0, OTHER_UNIT)
        demand = reserved(task, own, budgets)
        if not demand and starts:
            allowance = next_allowance(task, budgets)
            demand = allowance.value if allowance is not None else demand
        return tuple(keys), demand

    def share_of_orphan(
        self, repository: str, allowance: Allowance | None
    ) -> tuple[tuple[str, ...], Decimal]:
        """Return the keys of an orphan's budgets, and what the orphan may spend of each."""
        keys = tuple(key for key in (repository, NAMESPACE) if key in self._limits)
        return keys, allowance.value if allowance is not None else Decimal(0)

    def unspent(self, tasks: Iterable[AgentTask], demands: Mapping[str, Decimal]) -> dict[str, Decimal]:
        """Return what is left of each budget in the current period after what ended attempts spent.

        Args:
            tasks: all active tasks.
            demands: what running tasks may still spend, by the task's name.
        """
        if not self._budgets.shared:
            return {}
        today = day_of(self._now())
        if today != self._day:
            self._spent.forget_before(today)
            self._day = today
        unit = (self._budgets.task or Allowance(tokens=0)).unit
        spent = {key: self._spent.of(key, today, unit) for key in self._limits}
        before, self._open = self._open, {}
        for task in tasks:
            if not task.status.attempts and task.name not in demands:
                continue
            before.pop(task.uid, None)
            if task.uid in self._spent:
                continue  # it has ended
            by_day = charges(task.status.attempts)
            _add(spent, task.repository_hash, by_day, today, unit)
            if demand := demands.get(task.name):
                units = by_day.setdefault(today, {})
                units[unit] = units.get(unit, Decimal(0)) + demand
            self._open[task.uid] = task.repository_hash, by_day
        for uid, (repository, by_day) in before.items():
            if uid not in self._spent:
                self._spent.put(uid, repository, by_day)  # deleted while it ran: it may have spent it all
                _add(spent, repository, by_day, today, unit)
        return {OTHER_UNIT: Decimal(0)} | {
            key: limit.value - spent.get(key, Decimal(0)) for key, limit in self._limits.items()
        }

    def exhausted(self, task: AgentTask, key: str) -> Exhausted:
        """Return the explanation for the status of a task that waits for a budget."""
        source = task.spec.source
        allowance = next_allowance(task, self._budgets) or Allowance(tokens=0)
        return exhausted(key, source.repository, self._limits.get(key), allowance, self._now())

    @property
    def next_period(self) -> float | None:
        """The number of seconds until the next period of a budget begins; `None` without shared budgets."""
        if not self._budgets.shared:
            return None
        now = self._now()
        return max(1.0, (period_end("", day_of(now)) - now).total_seconds())

    def shares(
        self, unspent: Mapping[str, Decimal], left: Mapping[str, Decimal]
    ) -> Iterator[tuple[str, Allowance, Decimal, Decimal]]:
        """Yield each budget's repository (empty for the namespace), limit, spending and reservations."""
        for key, limit in self._limits.items():
            rest = unspent.get(key, limit.value)
            yield self._names[key], limit, limit.value - rest, rest - left.get(key, rest)


def _add(spent: dict[str, Decimal], repository: str, found: Charges, today: date, unit: str) -> None:
    """Add what a task spent in the current periods to the budgets that it shares."""
    for key in (repository, NAMESPACE):
        if key in spent:
            spent[key] += sum(
                (
                    units.get(unit, Decimal(0))
                    for day, units in found.items()
                    if _first(key, day) == _first(key, today)
                ),
                Decimal(0),
            )


def _first(key: str, day: date) -> date:
    """Return the first day of the budget's period that contains the day."""
    return day.replace(day=1) if key == NAMESPACE else day
