"""An attempt that may spend only so much on the model."""

import asyncio
from decimal import Decimal

import httpx2
from coding_agent_consumer.agent_interface import Brief
from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.workspace.protocol import Workspace
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Allowance
from coding_agent_testbed.model.script import Turn

from tests.fixtures.system import MODEL_KEY
from tests.integration.consumer_attempt.conftest import MakePlace
from tests.integration.main_job.scripts import finish, run, script, write

FIRST = "coding-agent/issue-1"
PRICES = {"prices": {"scripted": {"input": "10", "output": "10"}}}


def _large(turn: Turn) -> Turn:
    return turn.model_copy(update={"prompt_tokens": 10_000})


async def test_at_its_end_the_work_is_pushed_and_the_outcome_says_why(make_place: MakePlace) -> None:
    turns = [_large(write("begun.md", "begun\n")), *(_large(run(f"echo {n}")) for n in range(9)), finish()]
    place = make_place("github", script(*turns))
    allowance = Allowance(amount=Decimal("0.25"), currency="USD")
    given = place.given().model_copy(update={"allowance": allowance})
    outcome = await place.run(given, llm=PRICES)
    assert (outcome.reason, outcome.branch) == (Reason.BUDGET_EXCEEDED, FIRST)
    assert outcome.usage.cost is not None
    assert outcome.message == (
        "The attempt may spend 0.25 USD on the model. "
        f"It spent {outcome.usage.cost}, and its next request did not fit."
    )
    assert not outcome.retryable
    assert place.system.file_at(FIRST, "begun.md") == "begun\n"
    asked = len(place.system.model.requests)
    assert (asked, outcome.usage.requests) == (3, 3), "two answers fit, the third was under way"
    assert Decimal("0.30") <= Decimal(outcome.usage.cost.amount) < Decimal("0.31")


async def test_the_gateways_count_is_the_outcomes_whatever_the_agent_says(make_place: MakePlace) -> None:
    place = make_place("github", script(_large(finish()), loop=True))

    class Foreign:
        """An agent that the allowance ends by the event alone: it repeats what was refused for ever."""

        def __init__(self, _: object, gateway: Gateway) -> None:
            self._gateway = gateway

        async def work(
            self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, **_: object
        ) -> Outcome:
            await workspace.write_file("a.md", "a\n")
            headers = {"authorization": f"Bearer {self._gateway.credential}"}
            body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
            async with httpx2.AsyncClient(base_url=self._gateway.url, headers=headers, timeout=60) as client:
                while not stop.is_set():
                    response = await client.post("/v1/chat/completions", json=body)
                    assert MODEL_KEY not in response.text
            return Outcome(reason=Reason.CANCELLED, message="Stopped.")

    given = place.given().model_copy(update={"allowance": Allowance(tokens=15_000)})
    outcome = await place.run(given, make_agent=Foreign)
    assert (outcome.reason, outcome.branch) == (Reason.BUDGET_EXCEEDED, FIRST)
    assert "15,000 tokens" in outcome.message
    assert f"{outcome.usage.input_tokens + outcome.usage.output_tokens:,} tokens" in outcome.message
    assert outcome.usage.requests == 2
    assert outcome.usage.input_tokens == 20_000
    assert place.system.file_at(FIRST, "a.md") == "a\n"


async def test_what_was_spent_is_left_behind_after_each_answer(make_place: MakePlace) -> None:
    """If the agent is killed, the operator knows it all the same."""
    place = make_place("github", script(_large(write("a.md", "a\n")), _large(finish())))
    left: list[Outcome] = []
    given = place.given().model_copy(update={"allowance": Allowance(tokens=100_000)})
    outcome = await place.run(given, record=left.append)
    assert outcome.succeeded
    assert [(one.reason, one.usage.requests) for one in left] == [(Reason.INTERNAL, n) for n in range(3)]
    assert left[-1].usage == outcome.usage
    assert left[-1].transcript == outcome.transcript
    assert "write_file" in left[-1].tail
