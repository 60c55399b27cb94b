"""A budget holds whatever happens: the agents' spending is counted by the test, never by the operator."""

from __future__ import annotations

import json
import signal
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from coding_agent_core.reasons import Reason
from coding_agent_core.usage import Allowance, Cost, Usage

from tests.integration.operator.crash_proxy import proxy_of
from tests.integration.operator.job_count import JobCount
from tests.integration.operator.pod_driver import Ends, PodDriver, reported
from tests.integration.operator.world import OperatorProcess, World, account

BUDGET, ALLOWANCE = Decimal(10), Decimal(2)
TASKS, KILLS = 20, 5
ONE_ANSWER = Decimal("0.15")


class Agents:
    """In place of the agents and of their gateways, which stop them at their allowance.

    Attributes:
        spent: of all together, as a model's provider would count it.
    """

    def __init__(self, world: World, chance: Random) -> None:
        self._world = world
        self._chance = chance
        self._allowances: dict[str, Decimal] = {}
        self._own: Counter[str] = Counter()
        self._ends: dict[str, Ends] = {}
        self.spent = Decimal(0)

    def __call__(self, job: str) -> Ends | None:
        if job in self._ends:
            return self._ends[job]
        if job not in self._allowances:
            self._allowances[job] = self._allowance(job)
        for _ in range(self._chance.randint(1, 6)):
            if (self._own[job] + 1) * ONE_ANSWER > self._allowances[job]:
                break
            self._own[job] += 1
            self.spent += ONE_ANSWER
        if self._chance.random() < 0.5:
            return None
        self._ends[job] = self._end(job)
        return self._ends[job]

    def _end(self, job: str) -> Ends:
        cost = Cost.of(self._own[job] * ONE_ANSWER, "USD")
        usage = Usage(requests=self._own[job], input_tokens=1, cost=cost)
        return self._chance.choice(
            [
                Ends(137, "", "OOMKilled"),
                reported(Reason.MODEL_UNAVAILABLE, usage=usage),
                reported(Reason.COMPLETED, usage=usage),
            ]
        )

    def _allowance(self, job: str) -> Decimal:
        found = self._world.plane.batch.read_namespaced_job(job, self._world.namespace, _request_timeout=60)
        [agent] = found.spec.template.spec.containers
        [text] = [entry.value for entry in agent.env if entry.name == "CODING_AGENT_TASK"]
        return Allowance.model_validate(json.loads(text)["allowance"]).value


def charged(task: dict[str, Any]) -> Decimal:
    """By its status: what its attempts reported, else their allowance."""
    total = Decimal(0)
    for attempt in task["status"].get("attempts", ()):
        cost = (attempt.get("usage") or {}).get("cost") or attempt["allowance"]
        total += Decimal(cost["amount"])
    return total


@pytest.mark.long
@pytest.mark.timeout(400)
def test_twenty_attempts_and_a_killed_operator_stay_within_the_budget(
    world: World, count: JobCount, tmp_path: Path
) -> None:
    chance, day = Random(15), datetime.now(UTC).date()
    agents = Agents(world, chance)
    # Half of them may be deleted as soon as they have ended, if no budget counts them.
    for number in range(1, TASKS + 1):
        world.create(number, **({"ttlSecondsAfterFinished": 0} if number % 2 else {}))
    money = {"currency": "USD"}
    settings = {
        "queue": {"backend": "kubernetes"},
        "limits": {"global": TASKS, "per_repository": TASKS},
        "budgets": {"task": {"amount": 2, **money}, "repository": {"amount": 10, **money}},
        "operator": {"sweep_interval": 0.5, "relist_interval": 1},
    }

    def over() -> bool:
        found = world.tasks()
        assert len(found) == TASKS, "an ended task was deleted that the budget counts"
        states = [task.get("status") or {} for task in found]
        return all(
            state.get("phase") in ("Succeeded", "Failed") or state.get("reason") == "WaitingForBudget"
            for state in states
        )

    kills = 0
    with proxy_of(world.plane.kubeconfig) as proxy, PodDriver(world.plane, world.namespace, agents):
        kubeconfig = account(world.plane, world.namespace, tmp_path, proxy.url)
        process = OperatorProcess(kubeconfig, world.namespace, tmp_path, settings)

        def live() -> None:
            proxy.arm(chance.randint(12, 40) if kills < KILLS else 0, lambda: process.pid)
            process.start()

        def killed_or_over() -> bool:
            nonlocal kills
            if proxy.killed.is_set():
                process.stop(signal.SIGKILL)
                kills += 1
                live()
            return over()

        live()
        try:
            world.until("nothing runs, the rest waits", lambda: killed_or_over() or None, timeout=200)
        finally:
            proxy.disarm()
            process.stop(signal.SIGKILL)
    days = 1 if datetime.now(UTC).date() == day else 2  # a new day has a new budget
    tasks = world.tasks()
    waiting = [task["status"] for task in tasks if task["status"]["phase"] == "Queued"]
    assert kills >= 3
    assert agents.spent <= days * BUDGET, "spent beyond the budget"
    assert BUDGET - ALLOWANCE < sum(map(charged, tasks)) <= days * BUDGET, "it would have let more start"
    assert waiting or days > 1, "the budget was large enough for all"
    for status in waiting:
        [message] = [c["message"] for c in status["conditions"] if c["type"] == "WithinBudget"]
        assert message.startswith("The budget of octo/demo (10.00 USD a day) has less left than the ")
        assert "The task waits until " in message
    count.catch_up()
    assert 2 <= count.most <= days * BUDGET / ALLOWANCE
