"""Whatever a call of an MCP tool raises is an answer to the model."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_consumer.agent.tools import RESULT_LIMIT, call_safely
from pydantic_ai import ModelRetry, ToolFailed
from pydantic_ai.mcp import MCPError

NO_CONTEXT: Any = None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelRetry("no such article"), "no such article"),
        (ToolFailed("out of stock"), "out of stock"),
        (MCPError("bad params", -32602), "bad params"),
        (ConnectionResetError("secret detail"), "does not answer (ConnectionResetError)"),
        (ExceptionGroup("group", [OSError()]), "does not answer (ExceptionGroup)"),
    ],
)
async def test_errors_become_answers(error: Exception, told: str) -> None:
    async def call_tool(*_: Any, **__: Any) -> Any:
        raise error

    with pytest.raises(ToolFailed) as caught:
        await call_safely(NO_CONTEXT, call_tool, "price_of", {})
    assert told in caught.value.message
    assert "secret detail" not in caught.value.message


@pytest.mark.parametrize("result", ["x" * 1_000_000, {"rows": ["x" * 1000] * 1000}, {"price": 450}])
async def test_results_are_bounded_and_small_ones_passed_on_as_they_are(result: Any) -> None:
    async def call_tool(*_: Any, **__: Any) -> Any:
        return result

    answer = await call_safely(NO_CONTEXT, call_tool, "price_of", {})
    assert answer == result if "price" in result else len(str(answer)) < RESULT_LIMIT + 100
