"""What a person costs whose requests are refused."""

from datetime import timedelta

import pytest
from coding_agent_core.task.agenttask import AgentTask, OutcomeType
from coding_agent_core.task.model import Phase
from coding_agent_core.task.reasons import Reason
from coding_agent_operator.cluster.unauthorized_requests import MOST, PERIOD, UnauthorizedRequests
from coding_agent_operator.tasks.plan import SchedulingDecision, plan_task

from tests.unit.operator.making import NOW, POLICY, attempt, status, task

START = SchedulingDecision(start=True)


class Clock:
    now = NOW

    def __call__(self) -> object:
        return self.now


def refused(
    user: str = "mallory", reason: str = Reason.NOT_AUTHORIZED, repository: str = "octo/demo"
) -> AgentTask:
    ended = attempt(outcome=OutcomeType.FAILED, reason=reason)
    return task(status(ended, reason=reason), user=user, repository=repository)


def test_after_some_refusals_a_request_costs_no_pod_until_an_hour_has_passed() -> None:
    clock = Clock()
    requests = UnauthorizedRequests(clock)  # type: ignore[arg-type]
    for number in range(MOST):
        plan = plan_task(task(user="mallory"), [], START, clock.now, POLICY, unauthorized=requests.refusal)
        assert plan.create == 1, f"request {number + 1} is checked by its attempt"
        requests.ended(refused("Mallory"))
        clock.now += timedelta(minutes=10)
    plan = plan_task(task(user="mallory"), [], START, clock.now, POLICY, unauthorized=requests.refusal)
    assert plan.create is None
    assert plan.status is not None
    assert (plan.status.phase, plan.status.reason) == (Phase.FAILED, Reason.NOT_AUTHORIZED)
    assert plan.status.attempts == ()
    message = plan.status.condition("Succeeded").message  # type: ignore[union-attr]
    assert message == (
        "The last 3 requests of mallory in octo/demo were refused, so further ones are not checked until "
        "2026-01-02 13:00 UTC."
    )
    requests.ended(task(plan.status, user="mallory"))  # does not make it longer
    clock.now = NOW + PERIOD
    assert requests.refusal(task(user="mallory")) is None


@pytest.mark.parametrize(
    ("other", "ends"),
    [
        (task(user="alice"), [refused()] * MOST),
        (task(user="mallory", repository="octo/other"), [refused()] * MOST),
        (task(user="mallory"), [refused()] * (MOST - 1)),
        (task(user="mallory"), [refused(reason="ModelUnavailable")] * MOST),
        (task(user=""), [refused("")] * MOST),
        (task(status(attempt()), user="mallory"), [refused()] * MOST),
        (
            task(user="mallory", trigger={"origin": "manual", "receivedAt": NOW.isoformat()}),
            [refused()] * MOST,
        ),
    ],
    ids=["a person", "a repository", "fewer", "another reason", "nobody", "a started task", "a person's own"],
)
def test_others_are_not_affected(other: AgentTask, ends: list[AgentTask]) -> None:
    requests = UnauthorizedRequests(lambda: NOW)
    for end in ends:
        requests.ended(end)
    assert requests.refusal(other) is None
