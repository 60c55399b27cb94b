"""Ten attempts share a repository's budget, and agents and operator are killed: the model counts."""

import asyncio
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from coding_agent_testbed.cluster.access import KubectlError
from coding_agent_testbed.model.script import Script, Turn

from tests.e2e.pods import processes
from tests.fixtures.system import REPOSITORY
from tests.fixtures.system_in_pods import PodSystem, StartPods

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

ANSWER, ALLOWANCE = 1_000, 20_500
"""Tokens of an answer and of a task, whose last answer exceeds its allowance."""
PARALLEL, TASKS = 10, 14
BUDGET = PARALLEL * ALLOWANCE
"""As much as those may spend that run at a time, so the others wait for what is left over."""
AT_A_TIME = 2
"""Requests of one attempt."""
ENDED = ("Succeeded", "Failed")

ASKS = """
import json, os, sys, threading, urllib.error, urllib.request

sys.stdin.read()
body = {"model": "scripted", "max_tokens": 990, "messages": [{"role": "user", "content": "Go on."}]}
headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"

def ask():
    while True:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            urllib.request.urlopen(request, timeout=300).read()
        except urllib.error.HTTPError as error:
            if error.code == 402:
                return

for thread in [threading.Thread(target=ask) for _ in range(AT_A_TIME)]:
    thread.start()
"""
"""A coding agent that asks the model until its allowance is used up."""


class Chance:
    """Kills agents and the operator, each time after a number of answers of the model.

    The model waits until all attempts run, and for each kill that is due: on a quick machine the budget would
    be used up before.

    Attributes:
        begun: whether the model may answer.
    """

    def __init__(self, system: PodSystem, seed: int) -> None:
        self.system = system
        self.begun = False
        self.agents = self.operators = 0
        self._random = Random(seed)
        self._next = self._strikes = 0
        self._choose()
        play = system.model.app.state.play
        self._answer, play.answer = play.answer, self.answer

    async def answer(self, *asked: Any) -> Any:
        """The model's answer, once all attempts run and no strike is due."""
        while not self.begun or answers(self.system) >= self._next:
            await asyncio.sleep(0.05)  # not a wait: the attempts go on meanwhile
        return await self._answer(*asked)

    def strike(self) -> None:
        """Kill something if it is time."""
        if answers(self.system) < self._next:
            return
        self._choose()
        self._strikes += 1
        if self._strikes % 5 == 3:
            self.operators += 1
            self.system.programs[0].kill()
            self.system.programs[0] = self.system.start("--mode", "operator")
            self.system.programs.pop()
            return
        running = [pod for pod in self.system.pods() if pod["status"].get("phase") == "Running"]
        if not running:
            return
        pod = self._random.choice(running)["metadata"]
        self.agents += 1
        if self._strikes % 5 == 0:  # what it has not used of its allowance is lost
            with suppress(KubectlError):
                self.system.kubectl("delete", "pod", pod["name"], "--grace-period=0", "--force")
            return
        for pid, _, command in processes(pod["uid"]):
            if "--mode attempt" in command:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _choose(self) -> None:
        self._next = answers(self.system) + self._random.randint(10, 20)


def test_the_model_gave_no_more_than_the_budget_and_the_answers_under_way(start_pods: StartPods) -> None:
    # So slow that all of them ask at a time.
    answer = Turn(text="Go on.", prompt_tokens=10, output_tokens=ANSWER - 10, delay_ms=3_000)
    system = start_pods(
        "github",
        [Script(turns=(answer,), loop=True)],
        consumer={"runner": "command", "command": ["python3", "-c", f"AT_A_TIME = {AT_A_TIME}\n{ASKS}"]},
        budgets={"task": {"tokens": ALLOWANCE}, "repository": {"tokens": BUDGET}},
        limits={"global": PARALLEL, "per_repository": PARALLEL},
        operator={"lease_duration": 3},
    )
    for number in range(2, TASKS + 1):
        assert system.forge.open_issue(REPOSITORY, f"Ask {number}", "Ask.") == number
    for number in range(1, TASKS + 1):
        system.put_label(number)
    chance, at_a_time, day = Chance(system, seed=15), 0, datetime.now(UTC).date()

    def over() -> bool:
        nonlocal at_a_time
        chance.strike()
        found = [task.get("status", {}) for task in system.tasks()]
        at_a_time = max(at_a_time, sum(status.get("phase") == "Running" for status in found))
        chance.begun = at_a_time >= PARALLEL
        return len(found) == TASKS and all(
            status.get("phase") in ENDED or status.get("reason") == "WaitingForBudget" for status in found
        )

    system.wait("the budget is used up", over, 240)
    days = 1 if datetime.now(UTC).date() == day else 2  # a new day has a new budget
    tasks, spent = system.tasks(), tokens(system.model.usage["scripted"])
    exceeded = [task for task in tasks if task["status"].get("reason") == "BudgetExceeded"]
    attempts = [attempt for task in tasks for attempt in task["status"].get("attempts", ())]
    counted = sum(tokens_of(attempt) for attempt in attempts)
    # Nothing is known of an attempt that was killed with its pod. An attempt that was killed before its first
    # answer has reported that it used nothing.
    charged = sum(
        tokens_of(attempt) if "usage" in attempt else attempt["allowance"]["tokens"] for attempt in attempts
    )
    print(f"{spent} of {BUDGET}, {counted} counted, {charged} charged;")
    print(f"{len(exceeded)} used up; {at_a_time} at a time;")
    print(f"killed: {chance.agents} agents, {chance.operators} operators")
    under_way = len(exceeded) + AT_A_TIME * chance.agents
    assert spent <= days * BUDGET + ANSWER * under_way
    assert spent > 0.7 * BUDGET, "it was nearly used up"
    assert counted <= spent
    assert charged <= days * BUDGET + ANSWER * len(exceeded), "more was let start"
    assert at_a_time == PARALLEL
    assert chance.agents >= 5
    assert chance.operators >= 1
    assert days > 1 or [task for task in tasks if task["status"].get("reason") == "WaitingForBudget"]


def answers(system: PodSystem) -> int:
    return system.model.usage.get("scripted", {}).get("answers", 0)


def tokens(usage: dict[str, int]) -> int:
    return usage["input_tokens"] + usage["output_tokens"]


def tokens_of(attempt: dict[str, Any]) -> int:
    usage = attempt.get("usage") or {}
    return int(usage.get("inputTokens", 0)) + int(usage.get("outputTokens", 0))
