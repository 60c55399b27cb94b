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


@pytest.mark.parametrize(
    "result", ["x" * 1_000_000, {"rows": ["x" * 1000] * 1000}], ids=["text", "structured"]
)
async def test_results_are_bounded(result: Any) -> None:
    async def call_tool(*_: Any, **__: Any) -> Any:
        return result

    text = await call_safely(NO_CONTEXT, call_tool, "price_of", {})
    assert isinstance(text, str)
    assert len(text) < RESULT_LIMIT + 100


async def test_a_small_result_is_passed_on_as_it_is() -> None:
    async def call_tool(*_: Any, **__: Any) -> Any:
        return {"price": 450}

    assert await call_safely(NO_CONTEXT, call_tool, "price_of", {}) == {"price": 450}
