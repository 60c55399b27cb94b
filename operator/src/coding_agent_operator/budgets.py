"""Budgets: what ended attempts spent, what running ones may still spend, and what is left. Pure.

A budget is kept by reservation (docs/decisions/0023). An attempt starts only if its whole allowance is left
of every budget that it shares; what it does not spend is free again at its end. What it spent counts in the
day and month in which it ended; until then its whole allowance counts. So no period's spending exceeds its
budget by more than the answers under way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from coding_agent_core.agenttask import LABEL_REPOSITORY, AttemptStatus
from coding_agent_core.settings.operator import Budgets
from coding_agent_core.usage import Allowance

from coding_agent_operator.observed import Job, Task, read_status

NAMESPACE = "namespace"
"""Key of the namespace's budget; a repository's is the hash in its label."""
OTHER_UNIT = "unit"
"""In place of a budget's key: the task's own budget is in another unit than those that it shares."""
Charges = Mapping[date, Mapping[str, Decimal]]
"""What was spent, by day (UTC) and unit: a currency, or `tokens`."""
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Exhausted:
    """A budget of which not enough is left for a task until its period ends.

    Attributes:
        message: for people.
        until: when the period ends; `None`: waiting does not help.
    """

    message: str
    until: datetime | None = None


class Spent:
    """What the ended tasks of a namespace spent, each counted once."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, date, str], Decimal] = defaultdict(Decimal)
        self._tasks: dict[str, tuple[str, Charges]] = {}

    def put(self, uid: str, repository: str, charges: Charges) -> None:
        """Count a task, with what is known of it now."""
        self._count(*self._tasks.pop(uid, (repository, {})), -1)
        if charges:
            self._tasks[uid] = repository, charges
            self._count(repository, charges, 1)

    def of(self, key: str, day: date, unit: str) -> Decimal:
        """What a budget's tasks spent in the period of a day."""
        return self._totals.get((key, _first(key, day), unit), Decimal(0))

    def forget_before(self, day: date) -> None:
        """Drop what no period of this day or a later one needs."""
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
    """When the period of a budget ends that a day is in."""
    after = (day.replace(day=28) + 4 * _ONE_DAY).replace(day=1) if key == NAMESPACE else day + _ONE_DAY
    return datetime.combine(after, time(), UTC)


def charge(attempt: AttemptStatus) -> dict[str, Decimal]:
    """What an ended attempt spent, by unit; its whole allowance where that is not known."""
    spent: dict[str, Decimal] = {}
    usage, allowance = attempt.usage, attempt.allowance
    if usage is not None and usage.requests:
        spent["tokens"] = Decimal(usage.input_tokens + usage.output_tokens)
        if usage.cost is not None:
            spent[usage.cost.currency] = Decimal(usage.cost.amount)
    if allowance is not None and allowance.spent(usage) is None:
        spent[allowance.unit] = allowance.value
    return spent


def charges(attempts: Iterable[AttemptStatus]) -> dict[date, dict[str, Decimal]]:
    """What the ended attempts of a task spent."""
    found: dict[date, dict[str, Decimal]] = {}
    for attempt in attempts:
        if attempt.outcome is None or attempt.completion_time is None:
            continue
        units = found.setdefault(day_of(attempt.completion_time), {})
        for unit, value in charge(attempt).items():
            units[unit] = units.get(unit, Decimal(0)) + value
    return {day: units for day, units in found.items() if units}


def read_spent(body: Mapping[str, Any]) -> tuple[str, str, Charges]:
    """An ended task's uid, its repository's hash, and what it spent; what cannot be read is left out."""
    repository = (body["metadata"].get("labels") or {}).get(LABEL_REPOSITORY) or ""
    status, _ = read_status(body.get("status"))
    return body["metadata"]["uid"], repository, charges(status.attempts)


def next_allowance(task: Task, budgets: Budgets) -> Allowance | None:
    """What the next attempt of a task may spend: what the earlier ones left of its budget.

    A budget larger than one that the task shares is cut to it: more could never be left there.
    """
    budget = task.spec.budget or budgets.task
    if budget is None:
        return None
    earlier = [a for a in task.status.attempts if a.allowance is not None and a.allowance.unit == budget.unit]
    if earlier:
        budget = _rest(earlier[-1])
    source = task.spec.source
    for shared in (budgets.of(source.host, source.repository), budgets.namespace):
        if shared is not None and shared.unit == budget.unit:
            budget = budget.with_value(min(budget.value, shared.value))
    return budget


def used_up(attempts: Sequence[AttemptStatus]) -> Allowance | None:
    """The allowance of the last attempt, if it left nothing of it for another one."""
    last = attempts[-1] if attempts else None
    if last is None or last.allowance is None or last.outcome is None or _rest(last).value > 0:
        return None
    return last.allowance


def _rest(attempt: AttemptStatus) -> Allowance:
    allowance = attempt.allowance
    assert allowance is not None  # noqa: S101 - the callers have asked
    return allowance.with_value(allowance.value - charge(attempt).get(allowance.unit, Decimal(0)))


def reserved(task: Task, jobs: Sequence[Job], budgets: Budgets) -> Decimal:
    """What a task's attempts whose end is not recorded may still spend, in the unit of the budgets."""
    open_ = {a.number: a.allowance for a in task.status.attempts if a.outcome is None}
    recorded = {a.number for a in task.status.attempts if a.outcome is not None}
    for job in jobs:
        if job.number not in recorded:
            open_[job.number or 0] = job.allowance or open_.get(job.number or 0)
    return sum((_value(allowance, budgets) for allowance in open_.values()), Decimal(0))


def _value(allowance: Allowance | None, budgets: Budgets) -> Decimal:
    """An allowance in the unit of the budgets; one from before the unit was changed counts as a whole one."""
    whole = budgets.task or Allowance(tokens=0)
    return allowance.value if allowance is not None and allowance.unit == whole.unit else whole.value


def counted_until(ended: datetime, repository: tuple[str, str], budgets: Budgets) -> datetime | None:
    """Until when an ended task has to stay because a budget counts what it spent.

    Args:
        repository: its host and path.
    """
    if budgets.namespace is not None:
        return period_end(NAMESPACE, day_of(ended))
    return period_end("", day_of(ended)) if budgets.of(*repository) is not None else None


def in_another_unit(task: Task, budgets: Budgets) -> bool:
    own, usual = task.spec.budget, budgets.task
    return own is not None and usual is not None and own.unit != usual.unit


def exhausted(
    key: str, repository: str, budget: Allowance | None, allowance: Allowance, now: datetime
) -> Exhausted:
    """The message about a budget of which less is left than a task may spend."""
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


def _first(key: str, day: date) -> date:
    return day.replace(day=1) if key == NAMESPACE else day
