"""The agent over a real model: opens model and MCP servers, lets them talk, and ends in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from coding_agent_core.cost import cost_of
from coding_agent_core.errors import SettingsError
from coding_agent_core.outcome import Usage
from coding_agent_core.reasons import Reason
from coding_agent_core.settings import Settings
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.usage import RunUsage

from coding_agent_consumer.agent.conversation import Conversation
from coding_agent_consumer.agent.failures import failure_of
from coding_agent_consumer.agent.finish import Finish, concluded
from coding_agent_consumer.agent.models import ModelSpec, model_spec, open_model
from coding_agent_consumer.agent.protocol import Brief, Ending, OnStep, Step
from coding_agent_consumer.agent.retrying import RetryingModel, RetryPolicy
from coding_agent_consumer.agent.scrub import Scrub, scrub_for
from coding_agent_consumer.agent.tools import workspace_tools
from coding_agent_consumer.agent.transcript import Transcript
from coding_agent_consumer.workspace.protocol import Workspace

_logger = logging.getLogger("coding_agent.agent")

_LET_GO = 5.0
"""Seconds in which a cancelled attempt must have let go of its tools."""

OpenModel = Callable[[ModelSpec], AbstractAsyncContextManager[Model]]


class ModelAgent:
    """Works with the model and the MCP servers of a person's settings; implements `Agent`."""

    def __init__(
        self, settings: Settings, *, retry: RetryPolicy | None = None, open_model: OpenModel = open_model
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            retry: how requests are tried again; by default as `llm.max_retries` says.
            open_model: gives the model; tests give their own.
        """
        self._settings = settings
        self._retry = retry or RetryPolicy(settings.llm.max_retries)
        self._open_model = open_model

    async def work(
        self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, timeout: float, on_step: OnStep
    ) -> Ending:
        """Work, as `Agent.work` says."""
        usage = RunUsage()
        job = asyncio.create_task(self._work(brief, workspace, on_step, usage))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({job, stopped}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                return job.result()
        finally:
            stopped.cancel()
            await _let_go(job)
        if stop.is_set():
            return Ending(Reason.CANCELLED, "The work was stopped.", "", self._counted(usage))
        return Ending(
            Reason.DEADLINE_EXCEEDED,
            f"The agent did not finish within {_duration(timeout)} (consumer.timeout_seconds).",
            "",
            self._counted(usage),
        )

    async def _work(self, brief: Brief, workspace: Workspace, on_step: OnStep, usage: RunUsage) -> Ending:
        scrub = scrub_for(self._settings)
        try:
            spec = model_spec(self._settings.llm)
        except SettingsError as error:
            return Ending(Reason.CONFIGURATION, str(error), "", self._counted(usage))
        try:
            output = await self._converse(brief, workspace, on_step, usage, spec, scrub)
        except Exception as error:
            failure = failure_of(error, spec, scrub, max_requests=self._settings.max_llm_process_num)
            if failure is None:
                _logger.exception("The agent failed unexpectedly")
                message = f"The agent failed unexpectedly ({type(error).__name__}); the log tells more."
                return Ending(Reason.INTERNAL, message, "", self._counted(usage))
            return Ending(failure.reason, failure.message, "", self._counted(usage), failure.retry_after)
        reason, message, summary = concluded(output)
        return Ending(reason, scrub(message), scrub(summary), self._counted(usage))

    async def _converse(  # noqa: PLR0917 - what one attempt is made of
        self,
        brief: Brief,
        workspace: Workspace,
        on_step: OnStep,
        usage: RunUsage,
        spec: ModelSpec,
        scrub: Scrub,
    ) -> Finish | str:
        async with self._open_model(spec) as model:
            toolsets: list[AbstractToolset[Any]] = [workspace_tools(workspace)]
            words = brief.instructions
            async with _closed_quietly() as servers:
                if self._settings.mcp_servers:
                    more, note = await self._servers(servers, scrub, on_step)
                    toolsets += more
                    words += note
                conversation = Conversation(
                    settings=self._settings,
                    spec=spec,
                    model=RetryingModel(model, self._retry),
                    instructions=words,
                    toolsets=toolsets,
                    transcript=Transcript(brief.transcript, scrub, brief.last_lines),
                    scrub=scrub,
                    on_step=on_step,
                    usage=usage,
                )
                return await conversation.run(brief.prompt)

    def _counted(self, usage: RunUsage) -> Usage:
        """What was used, with its cost where the model's price is configured."""
        llm = self._settings.llm
        price = llm.prices.get(getattr(llm, llm.provider).model)
        cost = None
        if price is not None:
            cost = cost_of(
                price,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cache_read_tokens,
            )
        return Usage(
            requests=usage.requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=cost,
        )

    async def _servers(
        self, stack: AsyncExitStack, scrub: Scrub, on_step: OnStep
    ) -> tuple[list[AbstractToolset[Any]], str]:
        """Tools of the MCP servers, and a word to the model on those that do not answer."""
        from coding_agent_consumer.agent import mcp_servers  # noqa: PLC0415 - takes seconds, used by few

        connected = await mcp_servers.connect(self._settings.mcp_servers, stack, scrub)
        for name, why in connected.failed.items():
            await on_step(Step(0, "tool", f"MCP server {name} cannot be used", why))
        if not connected.failed:
            return connected.toolsets, ""
        names = ", ".join(sorted(connected.failed))
        return connected.toolsets, f"\nThe tools of these servers are not available now: {names}.\n"


@asynccontextmanager
async def _closed_quietly() -> AsyncIterator[AsyncExitStack]:
    """A stack of MCP servers: what they raise when they are closed hides neither a result nor an error."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        try:
            async with asyncio.timeout(_LET_GO):
                await stack.aclose()
        except Exception as error:
            _logger.warning("An MCP server did not close cleanly: %s", type(error).__name__)


async def _let_go(job: asyncio.Task[Ending]) -> None:
    if job.done():
        return
    job.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait({job}, timeout=_LET_GO)
    if not job.done():
        _logger.warning("A tool of the agent did not stop within %.0f s", _LET_GO)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
