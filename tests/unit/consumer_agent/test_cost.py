"""What an attempt costs is counted where the model's price is configured, however the attempt ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent import Brief, Step
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.agent.models import ModelSpec, cost_of
from coding_agent_core.outcome import Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.settings import Settings
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage, RunUsage

from tests.fixtures.workspace import FolderWorkspace

PRICES = {
    "cheap": {"input": "0.15", "output": "0.60"},
    "cached": {"input": "2.00", "output": "8", "cached_input": "0.50", "currency": "EUR"},
}
FIRST = RequestUsage(input_tokens=1_000, output_tokens=100, cache_read_tokens=400)
SECOND = RequestUsage(input_tokens=3_000, output_tokens=200)


async def work(folder: Path, model: str, *, fails: bool = False, stop_first: bool = False) -> Outcome:
    settings = Settings.model_validate(
        {
            "llm": {
                "openai": {"model": model, "base_url": "http://127.0.0.1:1/v1"},
                "prices": PRICES,
                "stream": False,
            }
        }
    )
    stop = asyncio.Event()

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if not any(isinstance(message, ModelResponse) for message in messages):
            call = ToolCallPart("run_command", {"command": "true"})
            return ModelResponse(parts=[call], usage=FIRST)
        if fails:
            raise ModelHTTPError(401, model)
        end = ToolCallPart("finish", {"status": "done", "summary": "Done."})
        return ModelResponse(parts=[end], usage=SECOND)

    @asynccontextmanager
    async def open_model(spec: ModelSpec) -> AsyncIterator[Model]:
        yield FunctionModel(answer)

    async def on_step(step: Step) -> None:
        if stop_first and step.kind == "tool":
            stop.set()
            await asyncio.Event().wait()

    agent: Any = ModelAgent(settings, open_model=open_model)
    outcome = await agent.work(
        Brief("You fix bugs.", "Fix it."), FolderWorkspace(folder), stop=stop, timeout=30, on_step=on_step
    )
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("cheap", "0.00078 USD"),  # 4,000 at 0.15 and 300 at 0.60
        ("cached", "0.0098 EUR"),  # 3,600 at 2.00, 400 at 0.50 and 300 at 8
        ("unpriced", None),
    ],
)
async def test_the_cost_of_an_attempt(tmp_path: Path, model: str, cost: str | None) -> None:
    outcome = await work(tmp_path, model)
    assert outcome.reason is Reason.COMPLETED, outcome.message
    usage = outcome.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 4_000, 300)
    assert (str(usage.cost) if usage.cost else None) == cost


async def test_a_failed_attempt_costs_too(tmp_path: Path) -> None:
    outcome = await work(tmp_path, "cheap", fails=True)
    assert outcome.reason is Reason.MODEL_REFUSED
    assert str(outcome.usage.cost) == "0.00021 USD"


async def test_a_stopped_attempt_costs_too(tmp_path: Path) -> None:
    outcome = await work(tmp_path, "cheap", stop_first=True)
    assert outcome.reason is Reason.CANCELLED
    assert str(outcome.usage.cost) == "0.00021 USD"


@pytest.mark.parametrize(
    ("base_url", "model", "known"),
    [
        ("https://api.openai.com/v1", "gpt-4o", True),
        ("https://api.openai.com/v1", "of-tomorrow", False),
        ("http://gateway.example.com/v1", "gpt-4o", False),
    ],
)
def test_the_list_price_of_a_public_provider_stands_in(base_url: str, model: str, known: bool) -> None:
    llm = Settings.model_validate({"llm": {"openai": {"model": model, "base_url": base_url}}}).llm
    cost = cost_of(llm, RunUsage(input_tokens=1_000_000, output_tokens=1_000))
    assert (cost is not None) is known
    assert cost is None or (cost.currency == "USD" and float(cost.amount) > 0)
