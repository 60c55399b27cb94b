"""Tools that the model can call: those of the workspace and of MCP servers, and `finish` to end its work.

The model may also end with plain text after it has done something, so that no request has to force a tool
call, which some servers refuse.

MCP servers run in the agent's container, not in the workspace. From that container's environment they get
only HOME, PATH and the like, and the egress proxy. Their library takes seconds to load, so it is imported
only if servers are configured.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from coding_agent_core.platforms.text import one_line
from coding_agent_core.settings.connections import McpServer
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from pydantic import BaseModel, Field
from pydantic_ai import FunctionToolset, ModelRetry, RunContext, ToolFailed, ToolOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.toolsets import AbstractToolset

from coding_agent_consumer.repository.commits import InvalidPatchError, require_bounded
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_consumer.workspace.egress import proxy_variables
from coding_agent_consumer.workspace.processes import cut_middle
from coding_agent_consumer.workspace.protocol import CommandResult, Workspace, WorkspaceRequestError

if TYPE_CHECKING:
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import CallToolFunc, MCPToolset, ToolResult

_logger = logging.getLogger("coding_agent.mcp")
_T = TypeVar("_T")
FINISH = "finish"
START_TIMEOUT = 30.0
"""An MCP server must start and list its tools in this many seconds; `npx` may have to unpack first."""
CALL_TIMEOUT = 300.0
"""Seconds that one call of an MCP tool may take."""
CLOSE_TIMEOUT = 5.0
"""Seconds that all MCP servers together may take to close."""
RESULT_LIMIT = 40_000
"""The most characters of an MCP tool's result that the model sees, from both of its ends."""
_EXCERPT_LENGTH = 300
"""The most characters of the agent's summary in a sentence for people."""
_USE_TOOLS = (
    "Nothing was done yet. Call the tools to work in the repository. If nothing has to be done or it cannot"
    f" be done, call `{FINISH}` with the status that says so."
)
_NATIVE_CALLS = "That was a tool call written as text, which does nothing. Call the tool itself."


def workspace_tools(workspace: Workspace) -> FunctionToolset[Any]:
    """Return a workspace's tools. They run one after the other: an edit is done before the tests after it.

    A refusal is an answer to the model; a workspace that is gone ends the work with `WorkspaceGoneError`.
    """

    async def run_command(command: str, timeout_seconds: float | None = None) -> str:
        """Run a shell command in the root of the repository and see its output and exit code.

        Args:
            command: Text for `bash -c`. It gets no input and no terminal.
            timeout_seconds: Kill it after this time; the workspace has a limit of its own.
        """
        return show(await _answer(workspace.run(command, timeout=timeout_seconds)))

    async def read_file(path: str, start_line: int = 1, line_count: int | None = None) -> str:
        """Read a text file; lines are numbered.

        Args:
            path: Relative to the root of the repository.
            start_line: First line to show, from 1.
            line_count: How many lines; as many as fit if left out.
        """
        return await _answer(workspace.read_file(path, start_line=start_line, line_count=line_count))

    async def write_file(path: str, content: str) -> str:
        """Create a file or replace all of its content.

        Args:
            path: Relative to the root of the repository.
            content: The whole new content.
        """
        await _answer(workspace.write_file(path, content))
        return f"Wrote {path}."

    async def edit_file(path: str, old: str, new: str) -> str:
        """Replace a piece of a file. `old` must occur exactly once.

        Args:
            path: Relative to the root of the repository.
            old: The present text, without line numbers, with enough around it to be unique.
            new: The text that replaces it.
        """
        await _answer(workspace.edit_file(path, old, new))
        return f"Edited {path}."

    async def list_files(path: str = ".") -> str:
        """List the files below a folder; what git ignores is left out.

        Args:
            path: Relative to the root of the repository.
        """
        return await _answer(workspace.list_files(path))

    async def search_files(pattern: str, path: str = ".") -> str:
        """Find the lines that match a regular expression.

        Args:
            pattern: The regular expression.
            path: File or folder to search, relative to the root of the repository.
        """
        return await _answer(workspace.search(pattern, path)) or "No line matches."

    return FunctionToolset(
        [run_command, read_file, write_file, edit_file, list_files, search_files],
        sequential=True,
        id="workspace",
    )


def show(result: CommandResult) -> str:
    """Return a command's result for the model. Only a timeout shows a time, so equal results look equal."""
    if result.timed_out:
        end = f"killed: it ran out of time after {result.seconds:.0f} s"
    else:
        end = f"exit code {result.exit_code}"
    return f"{result.output.rstrip()}\n[{end}]".lstrip()


async def _answer(action: Awaitable[_T]) -> _T:
    try:
        return await action
    except WorkspaceRequestError as error:
        raise ToolFailed(str(error)) from error


@asynccontextmanager
async def mcp_tools(
    servers: Sequence[McpServer], scrub: Scrub
) -> AsyncIterator[tuple[list[AbstractToolset[Any]], list[str]]]:
    """Yield the toolsets of the MCP servers that answer, and the names of those that do not.

    An error while a server is closed hides neither a result nor another error.
    """
    toolsets: list[AbstractToolset[Any]] = []
    failed: list[str] = []
    stack = AsyncExitStack()
    try:
        for server in servers:
            name, toolset = server.mcp_server_name, _toolset(server)
            try:
                # Each server has a stack of its own, so that the rest of a failed start is closed at once.
                async with AsyncExitStack() as own, asyncio.timeout(START_TIMEOUT):
                    await own.enter_async_context(toolset)
                    await toolset.list_tools()
                    stack.push_async_exit(own.pop_all())
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                # The MCP library cancels its caller when the connection breaks; nobody cancelled the
                # attempt.
                why = "the connection was closed"
            except TimeoutError:
                why = f"no answer within {START_TIMEOUT:g} s"
            except Exception as error:
                why = _cause(error, scrub)
            else:
                toolsets.append(toolset.prefixed(name))
                continue
            failed.append(name)
            _logger.warning("MCP server %s cannot be used; continuing without it: %s", name, why)
        yield toolsets, failed
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await stack.aclose()
        except Exception as error:
            _logger.warning("An MCP server did not close cleanly: %s", type(error).__name__)


def _toolset(server: McpServer) -> MCPToolset[Any]:
    from fastmcp.client.transports import StdioTransport  # noqa: PLC0415 - see the module's docstring
    from pydantic_ai.mcp import MCPToolset  # noqa: PLC0415

    target: str | StdioTransport
    if server.url is not None:
        target = server.url
    else:
        target = StdioTransport(
            command=server.command[0],
            args=list(server.command[1:]),
            env={**proxy_variables(os.environ), **server.env},
            keep_alive=False,
            # Servers may log anything, including the secrets that they were given.
            log_file=Path(os.devnull),
        )
    return MCPToolset(
        target,
        id=server.mcp_server_name,
        headers=dict(server.headers) or None if server.url is not None else None,
        init_timeout=START_TIMEOUT,
        read_timeout=CALL_TIMEOUT,
        process_tool_call=call_safely,
    )


async def call_safely(
    ctx: RunContext[Any], call_tool: CallToolFunc, name: str, tool_args: dict[str, Any]
) -> ToolResult:
    """Call a tool. A failure is an answer to the model; repeated failures end the work by our own limit."""
    from pydantic_ai.mcp import MCPError  # noqa: PLC0415

    try:
        result = await call_tool(name, tool_args)
    except (ModelRetry, ToolFailed) as error:
        raise ToolFailed(error.message) from error
    except MCPError as error:
        raise ToolFailed(str(error)) from error
    except Exception as error:
        _logger.warning("MCP tool %s failed: %s", name, type(error).__name__)
        raise ToolFailed(f"The server of this tool does not answer ({type(error).__name__}).") from error
    text = result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)
    shown, cut = cut_middle(text, RESULT_LIMIT)  # servers have no limit of their own
    return shown if cut else result


def _cause(error: BaseException, scrub: Scrub) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # A server's error can repeat the token that it got in its environment.
    text = " ".join(scrub(str(error)).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Finish(BaseModel):
    """The end of the work."""

    status: Literal["done", "nothing_to_change", "cannot"] = Field(
        description="done: the request is fulfilled and checked. nothing_to_change: the repository is already"
        " correct. cannot: it cannot be done as asked; say why in the summary."
    )
    summary: str = Field(
        min_length=1,
        description="For the person who asked, in Markdown: what was changed, why, and how it was checked.",
    )


FINISH_TOOL = ToolOutput(
    Finish, name=FINISH, description="End the work. Call it once, alone, when everything is done and checked."
)


def outcome_of_finish(output: Finish | str) -> Outcome:
    text, status = (output, "done") if isinstance(output, str) else (output.summary, output.status)
    summary = text.strip()
    match status:
        case "done":
            reason, message = Reason.COMPLETED, "The agent finished its work."
        case "nothing_to_change":
            reason, message = Reason.NOTHING_TO_CHANGE, "The agent found nothing to change."
        case _:
            reason, message = Reason.CANNOT_BE_DONE, f"The agent cannot do this: {_excerpt(summary)}"
    return Outcome(reason=reason, message=message, summary=summary)


def check_text(text: str, messages: list[ModelMessage], tool_names: Collection[str]) -> None:
    """Refuse a plain answer that cannot be the end of the work.

    Raises:
        ModelRetry: tells the model what to do instead.
    """
    if _is_written_call(text, tool_names):
        raise ModelRetry(_NATIVE_CALLS)
    if not any(
        isinstance(part, ToolCallPart)
        for message in messages
        if isinstance(message, ModelResponse)
        for part in message.parts
    ):
        raise ModelRetry(_USE_TOOLS)


async def check_change(workspace: Workspace) -> None:
    """Refuse the end of the work while its change cannot be taken over, if the model can still fix it.

    Raises:
        ModelRetry: tells the model why.
    """
    try:
        patch = await workspace.diff()
        require_bounded(patch.data)
    except (WorkspaceRequestError, InvalidPatchError) as error:
        raise ModelRetry(f"The work cannot be taken over yet. {error}") from error
    if patch.left_out:
        raise ModelRetry(
            f"The work cannot be taken over yet. {patch.too_large} Remove these files, or add them to"
            " .gitignore."
        )


def _is_written_call(text: str, tool_names: Collection[str]) -> bool:
    bare = re.sub(r"</?tool_call>|```(?:json)?", "", text).strip()
    if not bare.startswith("{"):
        return False
    try:
        data = json.loads(bare)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("name") in tool_names


def _excerpt(text: str) -> str:
    lines = (line.strip(" #*-") for line in text.splitlines())
    return one_line(next(filter(None, lines), "no reason given"), _EXCERPT_LENGTH)
