"""The agent with a model in the same process: what it offers, what it shows, what it survives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent.loop import ModelAgent
from coding_agent_consumer.agent.model_spec import ModelSpec
from coding_agent_consumer.agent.tools import RESULT_LIMIT, call_safely
from coding_agent_consumer.agent_interface import Brief, Step
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from pydantic_ai import ModelRetry, ToolFailed
from pydantic_ai.mcp import MCPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel

from tests.fixtures.workspace import FolderWorkspace

SETTINGS = Settings.model_validate({"llm": {"openai": {"base_url": "http://model.test/v1"}, "stream": False}})


async def work(
    tree: Path, model: Model, *, on_step: Callable[[Step], None] = lambda step: None, timeout: float = 60
) -> Outcome:
    @asynccontextmanager
    async def open_model(spec: ModelSpec) -> AsyncIterator[Model]:
        yield model

    async def step(entry: Step) -> None:
        on_step(entry)

    agent = ModelAgent(SETTINGS, open_model=open_model)
    return await agent.work(
        Brief("Fix bugs.", "Please.", Scrub(())),
        FolderWorkspace(tree),
        stop=asyncio.Event(),
        timeout=timeout,
        on_step=step,
    )


def calling(*turns: list[tuple[str, dict[str, Any]]]) -> FunctionModel:
    left = list(turns)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart(name, arguments) for name, arguments in left.pop(0)])

    return FunctionModel(answer)


DONE: list[tuple[str, dict[str, Any]]] = [("finish", {"status": "done", "summary": "Done."})]


async def test_the_tools_have_names_and_described_arguments(tmp_path: Path) -> None:
    seen: list[AgentInfo] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(info)
        return ModelResponse(parts=[ToolCallPart(*DONE[0])])

    await work(tmp_path, FunctionModel(answer))
    names = {tool.name for tool in seen[0].function_tools}
    assert names == {"run_command", "read_file", "write_file", "edit_file", "list_files", "search_files"}
    for tool in seen[0].function_tools:
        assert tool.description
        for name, argument in tool.parameters_json_schema["properties"].items():
            assert argument.get("description"), f"{tool.name}.{name}"


async def test_steps_are_numbered_and_tell_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    steps: list[Step] = []
    model = calling(
        [("run_command", {"command": "echo hello"})],
        [("edit_file", {"path": "a.py", "old": "absent", "new": "y"})],
        DONE,
    )
    await work(tmp_path, model, on_step=steps.append)
    assert [step.number for step in steps] == list(range(1, 6))
    assert [(step.kind, step.title) for step in steps] == [
        ("model", "run_command: echo hello"),
        ("tool", "run_command: echo hello"),
        ("model", "edit_file: a.py"),
        ("tool", "edit_file: a.py (failed)"),
        ("model", "finish"),
    ]


async def test_work_asked_for_beside_the_end_is_done_and_a_failed_command_is_no_failed_tool(
    tmp_path: Path,
) -> None:
    turns: Any = [[("run_command", {"command": f"echo {n}; false"})] for n in range(6)]
    last = [("write_file", {"path": "b", "content": "b"}), *DONE]
    outcome = await work(tmp_path, calling(*turns, last))
    assert outcome.reason is Reason.COMPLETED
    assert (tmp_path / "b").read_text() == "b"


async def test_an_unexpected_error_is_an_outcome_and_never_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        raise ZeroDivisionError

    outcome = await work(tmp_path, FunctionModel(answer))
    assert (outcome.reason, outcome.message) == (
        Reason.INTERNAL,
        "The agent failed unexpectedly (ZeroDivisionError); see the log for details.",
    )
    assert "The agent failed unexpectedly" in caplog.text


async def test_cancelling_from_outside_ends_the_work_too(tmp_path: Path) -> None:
    started = asyncio.Event()
    ended = asyncio.Event()

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ModelResponse(parts=[TextPart("never")])

    task = asyncio.create_task(work(tmp_path, FunctionModel(answer)))
    async with asyncio.timeout(60):
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()


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
