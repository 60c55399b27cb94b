"""Budgets: what attempts are charged, what the next one may spend, and that no budget is exceeded."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.operator import Budgets
from coding_agent_core.task import agenttask
from coding_agent_core.task.agenttask import OutcomeType
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import PodReason, Reason
from coding_agent_core.task.usage import Allowance, Cost, Usage
from coding_agent_operator.cluster.observed import read_job, read_pod
from coding_agent_operator.jobs.job import build_job
from coding_agent_operator.scheduling.fair_share import Candidate, fair_schedule
from coding_agent_operator.tasks.budgets import (
    NAMESPACE,
    Spending,
    Spent,
    charge,
    charges,
    counted_until,
    exhausted,
    next_allowance,
    period_end,
    reserved,
)
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task
from coding_agent_operator.tasks.runs import is_counted
from coding_agent_operator.tasks.state import Stage, task_state

from tests.unit.operator import making
from tests.unit.operator.making import NOW, POLICY, ago, attempt, changed, job, pod, said, status, task

FAILED = OutcomeType.FAILED


def usd(amount: str) -> Allowance:
    return Allowance(amount=Decimal(amount), currency="USD")


def used(amount: str, **fields: Any) -> Usage:
    return Usage(requests=1, input_tokens=10, output_tokens=5, cost=Cost.of(Decimal(amount), "USD"), **fields)


BUDGETS = Budgets(task=usd("5"), repository=usd("20"), namespace=usd("100"))
UNPRICED = Usage(requests=2, input_tokens=10, output_tokens=5)

CHARGES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("as it reported", {"allowance": usd("5"), "usage": used("0.25")}, {"USD": "0.25", "tokens": "15"}),
    ("more: an answer under way", {"allowance": usd("5"), "usage": used("6")}, {"USD": "6", "tokens": "15"}),
    ("lost: all that it might have spent", {"allowance": usd("5")}, {"USD": "5"}),
    ("a model without a price", {"allowance": usd("5"), "usage": UNPRICED}, {"USD": "5", "tokens": "15"}),
    ("it never began", {"allowance": usd("5"), "usage": Usage()}, {}),
    ("no budget", {}, {}),
    ("in tokens", {"allowance": Allowance(tokens=99), "usage": UNPRICED}, {"tokens": "15"}),
]


@pytest.mark.parametrize(("fields", "spent"), [row[1:] for row in CHARGES], ids=[row[0] for row in CHARGES])
def test_what_an_attempt_is_charged(fields: dict[str, Any], spent: dict[str, str]) -> None:
    assert charge(attempt(1, FAILED, **fields)) == {unit: Decimal(value) for unit, value in spent.items()}


def test_an_attempt_counts_on_the_day_on_which_it_ended() -> None:
    late = attempt(1, FAILED, usage=used("1"), completion_time=datetime(2026, 1, 1, 23, 59, tzinfo=UTC))
    early = attempt(2, FAILED, usage=used("2"), completion_time=datetime(2026, 1, 2, 0, 0, tzinfo=UTC))
    found = charges([late, early, attempt(3)])
    assert {day: units["USD"] for day, units in found.items()} == {
        date(2026, 1, 1): Decimal("1.00"),
        date(2026, 1, 2): Decimal("2.00"),
    }


def test_each_task_is_counted_once_and_by_period() -> None:
    spent, today = Spent(), date(2026, 2, 1)
    spent.put("a", "r", {date(2026, 1, 31): {"USD": Decimal(1)}, today: {"USD": Decimal(2)}})
    spent.put("a", "r", {date(2026, 1, 31): {"USD": Decimal(1)}, today: {"USD": Decimal(3)}})
    spent.put("b", "s", {today: {"USD": Decimal(10)}})
    assert spent.of("r", today, "USD") == 3
    assert spent.of(NAMESPACE, today, "USD") == 13
    assert spent.of(NAMESPACE, date(2026, 1, 2), "USD") == 1
    assert spent.of("r", today, "tokens") == 0
    spent.forget_before(today)
    assert spent.of("r", date(2026, 1, 31), "USD") == 0
    assert spent.of(NAMESPACE, today, "USD") == 13


def test_a_changed_label_does_not_move_what_was_spent_to_another_repository() -> None:
    spending = Spending(BUDGETS, lambda: NOW)
    ended = task(status(attempt(1, FAILED, allowance=usd("5"), usage=used("5"), completion_time=NOW)))
    spending.put(changed(ended, labels={agenttask.LABEL_REPOSITORY: "another"}))
    other = task(number=8)
    spending.share(other, [], starts=True)
    assert spending.unspent([other], {})[other.repository_hash] == 15


def test_a_retry_gets_what_is_left() -> None:
    one = attempt(1, FAILED, allowance=usd("5"), usage=used("1.5"))
    assert next_allowance(task(), BUDGETS) == usd("5")
    assert next_allowance(task(status(one)), BUDGETS) == usd("3.50")
    two = attempt(2, FAILED, allowance=usd("3.50"), usage=used("1"))
    assert next_allowance(task(status(one, two)), BUDGETS) == usd("2.50")
    assert next_allowance(task(), Budgets()) is None


def test_the_tasks_own_budget_wins_and_is_cut_to_those_that_it_shares() -> None:
    assert next_allowance(task(budget={"amount": "7.50", "currency": "USD"}), BUDGETS) == usd("7.50")
    assert next_allowance(task(budget={"amount": "500", "currency": "USD"}), BUDGETS) == usd("20")
    assert next_allowance(task(budget={"tokens": 99}), BUDGETS) == Allowance(tokens=99), "in another unit"


def test_what_runs_may_still_spend_its_allowance() -> None:
    ended = attempt(1, FAILED, allowance=usd("5"), usage=used("1"))
    recorded = attempt(2, allowance=usd("4"))
    assert reserved(task(status(ended)), [job(2, allowance=usd("4"))], BUDGETS) == 4
    assert reserved(task(status(ended, recorded)), [], BUDGETS) == 4
    assert reserved(task(status(ended, recorded)), [job(2, allowance=usd("4"))], BUDGETS) == 4
    assert reserved(task(status(recorded)), [job(2), job(3, allowance=usd("1"))], BUDGETS) == 5
    assert reserved(task(), [job(1)], BUDGETS) == 5, "from before there was a budget"


def test_a_task_ends_whose_budget_is_used_up() -> None:
    gone = attempt(1, allowance=usd("5"))
    failed = job(
        failure="BackoffLimitExceeded", allowance=usd("5"), pods=(pod(ended="OOMKilled", exit_code=137),)
    )
    state = task_state(task(status(gone)), [failed], NOW, POLICY)
    assert state.outcome is not None
    assert (state.outcome.phase, state.outcome.reason) == (Phase.FAILED, Reason.BUDGET_EXCEEDED)
    assert "5.00 USD" in state.outcome.message
    unlimited = job(failure="BackoffLimitExceeded", pods=failed.pods)
    assert task_state(task(status(attempt(1))), [unlimited], NOW, POLICY).outcome is None


def test_a_killed_agent_that_said_what_it_spent_leaves_the_rest_to_a_retry() -> None:
    gone = attempt(1, allowance=usd("5"))
    killed = {**said(Reason.INTERNAL, usage=used("1.5")), "exit_code": 137, "ended": "OOMKilled"}
    failed = job(failure="BackoffLimitExceeded", allowance=usd("5"), pods=(pod(**killed),))
    state = task_state(task(status(gone)), [failed], NOW, POLICY)
    assert (state.outcome, state.attempts[0].reason) == (None, "OOMKilled")
    assert next_allowance(task(status(*state.attempts)), BUDGETS) == usd("3.50")


def test_an_attempt_that_never_began_leaves_its_allowance() -> None:
    gone = attempt(1, allowance=usd("5"), reason=PodReason.ERR_IMAGE_PULL.value, message="No image.")
    state = task_state(task(status(gone)), [], NOW, POLICY)
    assert (state.outcome, state.attempts[0].usage) == (None, Usage())
    evicted = job(
        failure="BackoffLimitExceeded",
        allowance=usd("5"),
        pods=(pod(disruption="EvictionByEvictionAPI", began=False),),
    )
    state = task_state(task(status(attempt(1, allowance=usd("5")))), [evicted], NOW, POLICY)
    assert (state.outcome, state.attempts[0].usage) == (None, Usage())
    ran = job(
        failure="BackoffLimitExceeded", allowance=usd("5"), pods=(pod(disruption="EvictionByEvictionAPI"),)
    )
    state = task_state(task(status(attempt(1, allowance=usd("5")))), [ran], NOW, POLICY)
    assert state.outcome is not None


@pytest.mark.parametrize(
    ("spec", "state", "began"),
    [
        ({}, {}, False),
        ({"nodeName": "n"}, {"waiting": {"reason": "PodInitializing"}}, False),
        ({"nodeName": "n"}, {"running": {}}, True),
        ({"nodeName": "n"}, {"terminated": {"exitCode": 1}}, True),
        ({"nodeName": "n"}, {}, True),
        ({}, {"terminated": {"exitCode": 137}}, True),
    ],
)
def test_a_pod_shows_whether_its_agent_began(
    spec: dict[str, Any], state: dict[str, Any], began: bool
) -> None:
    body = {
        "metadata": {"name": "p"},
        "spec": spec,
        "status": {"containerStatuses": [{"name": "agent", "state": state}]},
    }
    assert read_pod(body).began is began


def test_the_job_carries_the_allowance() -> None:
    manifest = build_job(task(), 1, JobTemplate(), usd("5"))
    [agent] = manifest["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in agent["env"]}
    assert '"allowance": {"amount": "5", "currency": "USD"}' in environment["CODING_AGENT_TASK"]
    body = {**manifest, "metadata": {**manifest["metadata"], "uid": "u", "resourceVersion": "1"}}
    assert read_job(body).allowance == usd("5")
    # No second pod with the whole allowance again.
    assert {rule["action"] for rule in manifest["spec"]["podFailurePolicy"]["rules"]} == {"FailJob"}
    assert "annotations" not in build_job(task(), 1, JobTemplate())["metadata"]


def test_who_waits_for_a_budget_is_told_which_since_when_and_until_when() -> None:
    waits = SchedulingDecision(position=1, exhausted=exhausted("r", "octo/demo", usd("20"), usd("5"), NOW))
    plan = plan_task(task(), [], waits, NOW, POLICY)
    assert plan.status is not None
    assert (plan.status.phase, plan.status.reason) == (Phase.QUEUED, "WaitingForBudget")
    condition = plan.status.condition("WithinBudget")
    assert condition is not None
    assert condition.message == (
        "The budget of octo/demo (20.00 USD a day) has less left than the 5.00 USD that the task may spend. "
        "The task waits until 2026-01-03 00:00 UTC. It has waited since 2026-01-02 12:00 UTC."
    )
    later = NOW + timedelta(minutes=5)
    assert plan_task(task(plan.status), [], waits, later, POLICY).status is None, "nothing is written again"
    free = plan_task(task(plan.status), [], SchedulingDecision(position=1), later, POLICY).status
    assert free is not None
    assert {c.type: c.status for c in free.conditions}["WithinBudget"] == "True"


@pytest.mark.parametrize(
    ("budgets", "kept"),
    [
        (BUDGETS, datetime(2026, 2, 1, tzinfo=UTC)),
        (Budgets(task=usd("5"), repository=usd("20")), datetime(2026, 1, 3, tzinfo=UTC)),
        (Budgets(task=usd("5"), repositories={"octo/other": usd("20")}), None),
        (Budgets(task=usd("5")), None),
    ],
)
def test_an_ended_task_stays_while_a_budget_counts_it(budgets: Budgets, kept: datetime | None) -> None:
    assert counted_until(NOW, ("github.com", "octo/demo"), budgets) == kept
    ended = making.ended("True").model_copy(update={"attempts": (attempt(1, FAILED, usage=used("1")),)})
    assert is_counted(task(ended), budgets, NOW) is (kept is not None)
    assert not is_counted(task(making.ended("True")), budgets, NOW), "it spent nothing"
    if kept is not None:
        assert not is_counted(task(ended), budgets, kept)


def test_when_periods_end() -> None:
    assert period_end(NAMESPACE, date(2026, 12, 31)) == datetime(2027, 1, 1, tzinfo=UTC)
    assert period_end(NAMESPACE, date(2028, 2, 29)) == datetime(2028, 3, 1, tzinfo=UTC)
    assert period_end("r", date(2026, 12, 31)) == datetime(2027, 1, 1, tzinfo=UTC)


def waiting(name: str, demand: int, *budgets: str, stage: Stage = Stage.READY) -> Candidate:
    return Candidate(
        name=name, item=name, repository=budgets[0] if budgets else "", created=ago(10), stage=stage,
        repository_limit=99, budgets=budgets, demand=Decimal(demand),
    )  # fmt: skip


STARTS: list[tuple[str, list[Candidate], dict[str, int], list[str], dict[str, str]]] = [
    ("enough", [waiting("a", 5, "r"), waiting("b", 5, "r")], {"r": 10}, ["a", "b"], {}),
    ("enough for one", [waiting("a", 5, "r"), waiting("b", 5, "r")], {"r": 9}, ["a"], {}),
    ("what runs counts", [waiting("a", 5, "r", stage=Stage.ACTIVE), waiting("b", 5, "r")], {"r": 9}, [], {}),
    ("spent", [waiting("a", 5, "r")], {"r": 4}, [], {"a": "r"}),
    ("a smaller one fits", [waiting("a", 5, "r"), waiting("b", 4, "r")], {"r": 4}, ["b"], {"a": "r"}),
    ("two", [waiting("a", 5, "r", "n"), waiting("b", 5, "s", "n")], {"r": 9, "s": 9, "n": 9}, ["a"], {}),
    ("another repository", [waiting("a", 5, "r"), waiting("b", 5, "s")], {"r": 4, "s": 5}, ["b"], {"a": "r"}),
    ("no budget", [waiting("a", 5)], {}, ["a"], {}),
    ("a budget of nothing", [waiting("a", 0, "r")], {"r": 0}, [], {"a": "r"}),
    ("lowered", [waiting("a", 5, "r", stage=Stage.ACTIVE), waiting("b", 1, "r")], {"r": 4}, [], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "unspent", "start", "short"), [row[1:] for row in STARTS], ids=[row[0] for row in STARTS]
)
def test_who_may_start(
    tasks: list[Candidate], unspent: dict[str, int], start: list[str], short: dict[str, str]
) -> None:
    numbers = {key: Decimal(value) for key, value in unspent.items()}
    planned = fair_schedule(tasks, 99, NOW, aging=60, unspent=numbers)
    assert list(planned.start) == start
    assert planned.short == short
    assert set(planned.positions) == {task.name for task in tasks if task.stage is Stage.READY} - set(start)
