"""Tools of MCP servers: connected for one attempt, and unable to break it.

They run in the agent's container, not in the workspace. Of its environment they get only HOME, PATH and the
like, and the egress proxy.
Import this module only where servers are configured: the library behind it takes seconds to load.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from coding_agent_core.settings.attempts import McpServer
from fastmcp.client.transports import StdioTransport
from pydantic_ai import ModelRetry, RunContext, ToolFailed
from pydantic_ai.mcp import CallToolFunc, MCPError, MCPToolset, ToolResult
from pydantic_ai.toolsets import AbstractToolset

from coding_agent_consumer.agent.transcript import Scrub
from coding_agent_consumer.egress import proxy_variables
from coding_agent_consumer.workspace.processes import cut_middle

_logger = logging.getLogger("coding_agent.mcp")

START_TIMEOUT = 30.0
"""Seconds in which a server must start and list its tools; `npx` may have to unpack first."""
CALL_TIMEOUT = 300.0
RESULT_LIMIT = 40_000
"""Characters of one tool's result that the model sees: its head and tail."""


async def connect_servers(
    servers: Sequence[McpServer], stack: AsyncExitStack, scrub: Scrub
) -> tuple[list[AbstractToolset[Any]], dict[str, str]]:
    """Start or reach each server; one that fails is left out and logged.

    Args:
        stack: closes them; a server that died raises there.

    Returns:
        the toolsets of the servers that answer, and the reasons of the others by name.
    """
    toolsets: list[AbstractToolset[Any]] = []
    failed: dict[str, str] = {}
    for server in servers:
        toolset = _toolset(server)
        try:
            # One stack for each server: what a failed start left behind is closed at once.
            async with AsyncExitStack() as own, asyncio.timeout(START_TIMEOUT):
                await own.enter_async_context(toolset)
                await toolset.list_tools()
                stack.push_async_exit(own.pop_all())
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            failed[server.mcp_server_name] = "the connection was closed"
        except TimeoutError:
            failed[server.mcp_server_name] = f"no answer within {START_TIMEOUT:g} s"
        except Exception as error:
            failed[server.mcp_server_name] = _cause(error, scrub)
        else:
            toolsets.append(toolset.prefixed(server.mcp_server_name))
            continue
        _logger.warning(
            "MCP server %s cannot be used; continuing without it: %s",
            server.mcp_server_name,
            failed[server.mcp_server_name],
        )
    return toolsets, failed


def _toolset(server: McpServer) -> MCPToolset[Any]:
    target: str | StdioTransport
    if server.url is not None:
        target = server.url
    else:
        target = StdioTransport(
            command=server.command[0],
            args=list(server.command[1:]),
            env={**proxy_variables(os.environ), **server.env},
            keep_alive=False,
            # Servers write what they like there, including the secrets that they were given.
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
    """Every failure of a server is an answer to the model; repeated failures end the run by our own limit."""
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
    text = " ".join(scrub(str(error)).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
