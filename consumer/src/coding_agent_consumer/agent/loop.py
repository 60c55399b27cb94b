"""The built-in agent: ask the model, run its tool calls, check the limits, make room when the context fills.

`ModelAgent` opens the model and the MCP servers, and returns in time. `_Conversation` is the loop.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from coding_agent_core.errors import SettingsError
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Usage
from pydantic_ai import Agent, CallToolsNode, ModelRequestNode, ModelRetry, RunContext
from pydantic_ai.exceptions import AgentRunError, ModelAPIError, OutputTokenLimitExceeded, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.usage import RunUsage, UsageLimits
from pydantic_graph import End

from coding_agent_consumer.agent import context
from coding_agent_consumer.agent.failures import (
    LimitReachedError,
    Round,
    failure_of,
    reached,
    refuses_images,
    round_of,
    too_long,
)
from coding_agent_consumer.agent.messages import fields_of
from coding_agent_consumer.agent.model_spec import ModelSpec, model_spec
from coding_agent_consumer.agent.models import RetryingModel, open_model, request_settings
from coding_agent_consumer.agent.tools import (
    FINISH,
    FINISH_TOOL,
    Finish,
    check_change,
    check_text,
    mcp_tools,
    outcome_of_finish,
    workspace_tools,
)
from coding_agent_consumer.agent_interface import Brief, Image, OnStep, Step, work_until
from coding_agent_consumer.gateway.forwarding import Gateway
from coding_agent_consumer.transcripts.transcript import (
    Scrub,
    Transcript,
    step_of_answer,
    steps_of_results,
)
from coding_agent_consumer.workspace.protocol import Workspace

_logger = logging.getLogger("coding_agent.agent")

_LIBRARY_RETRIES = 1_000_000
"""A number so large that the library's own limits never apply: `reached` counts instead."""
_OVERHEAD = 2_000
"""Estimated tokens of instructions and tools, until the service reports those of the first request."""
_MAX_REJECTIONS = 3
"""The conversation may be refused as too long this many times in a row before we give up."""
MAX_TOOL_ERRORS = 3
"""Errors of one tool in a row that end the attempt. A model that did not
understand two of them repeats itself."""
_MAX_REFUSED_CHANGES = 2
"""The model is asked this often to fix work that cannot be taken over. Then the attempt ends with it."""
_TOO_LONG_ANSWER = (
    "Your last answer was cut off because it was too long, and nothing of it was done. Go on in smaller"
    " steps: write or edit files piece by piece."
)

OpenModel = Callable[[ModelSpec], AbstractAsyncContextManager[Model]]


@dataclass(frozen=True)
class ModelAgent:
    """Works with the model and the MCP servers of the settings; implements `Agent`.

    Attributes:
        gateway: the gateway to the model; `None`: the model is asked directly, with the real key.
        clock: measures the waits between tries of a request.
        open_model: makes the model; tests give their own function.
    """

    settings: Settings
    gateway: Gateway | None = None
    clock: Clock = field(default_factory=Clock)
    open_model: OpenModel = open_model

    async def work(
        self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, timeout: float, on_step: OnStep
    ) -> Outcome:
        usage, scrub = RunUsage(), brief.scrub
        outcome = await work_until(
            lambda: self._work(brief, workspace, scrub, on_step, usage), scrub, stop, timeout
        )
        counted = Usage(
            requests=usage.requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            model=self.settings.llm.model_name[:256],
        )
        return outcome.model_copy(update={"usage": counted})

    async def _work(
        self, brief: Brief, workspace: Workspace, scrub: Scrub, on_step: OnStep, usage: RunUsage
    ) -> Outcome:
        try:
            spec = model_spec(self.settings)
            if self.gateway is not None:
                spec = spec.through(self.gateway.url, self.gateway.credential)
        except SettingsError as error:
            return Outcome(reason=Reason.CONFIGURATION, message=str(error))
        try:
            async with (
                self.open_model(spec) as model,
                mcp_tools(self.settings.mcp_servers, scrub) as (servers, failed),
            ):
                for name in failed:
                    await on_step(Step(0, "tool", f"MCP server {name} cannot be used"))
                conversation = _Conversation(
                    settings=self.settings,
                    spec=spec,
                    model=RetryingModel(model, self.settings.llm.max_retries, self.clock, stream=spec.stream),
                    instructions=brief.instructions + _note_about(failed),
                    workspace=workspace,
                    toolsets=[workspace_tools(workspace), *servers],
                    transcript=Transcript(brief.transcript, scrub, brief.last_lines),
                    scrub=scrub,
                    on_step=on_step,
                    usage=usage,
                )
                return outcome_of_finish(await conversation.run(brief.prompt, brief.images))
        except Exception as error:
            failure = failure_of(error, spec, scrub, max_requests=self.settings.max_llm_process_num)
            if failure is None:
                _logger.exception("The agent failed unexpectedly")
                # The error's own text may contain the code or a secret, and the outcome is shown on the
                # item.
                message = f"The agent failed unexpectedly ({type(error).__name__}); see the log for details."
                failure = Outcome(reason=Reason.INTERNAL, message=message)
            return failure


def _note_about(failed: Collection[str]) -> str:
    """Return a note for the model on MCP servers that do not answer; empty if all answer."""
    if not failed:
        return ""
    return f"\nThe tools of these servers are not available now: {', '.join(sorted(failed))}.\n"


class _ContextFullError(Exception):
    """The conversation must be compressed before the next request."""


@dataclass
class _Conversation:
    """One attempt's exchange with the model.

    Attributes:
        usage: counts the tokens and requests, even if the attempt fails.
        messages: the conversation as the model sees it, compressed where necessary.
        name: the name under which the service caches the conversation's prefix.
    """

    settings: Settings
    spec: ModelSpec
    model: Model
    instructions: str
    workspace: Workspace
    toolsets: Sequence[AbstractToolset[Any]]
    transcript: Transcript
    scrub: Scrub
    on_step: OnStep
    usage: RunUsage
    messages: list[ModelMessage] = field(default_factory=list)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    _rounds: list[Round] = field(default_factory=list)
    _steps: int = 0
    _rejections: int = 0
    _refused_changes: int = 0
    _may_compress: bool = True

    async def run(self, prompt: str, images: Sequence[Image] = ()) -> Finish | str:
        """Exchange messages until the model ends its work.

        Raises:
            LimitReachedError: one of our limits was reached.
            AgentRunError: the model's service failed for good, or the number of requests is used up.
            WorkspaceGoneError: the workspace is gone.
        """
        agent = self._agent()
        self._record(ModelRequest(parts=[context.task_of(prompt, images)]))
        while True:
            try:
                return await self._talk(agent)
            except _ContextFullError:
                await self._compress(self._threshold)
            except OutputTokenLimitExceeded:
                # Nothing in the answer could be used: leave it out and say so.
                self._check_limits(Round((), usable=False, cut=True))
                if isinstance(self.messages[-1], ModelResponse):
                    # Services refuse an empty answer in the history.
                    self.messages[-1] = replace(self.messages[-1], parts=[TextPart("(cut off)")])
                self._record(ModelRequest(parts=[UserPromptPart(_TOO_LONG_ANSWER)]))
            except ModelAPIError as error:
                # The text of the issue is usually enough, and a model without vision is no reason to fail.
                if refuses_images(error) and context.has_images(self.messages):
                    self.messages = [context.without_images(message) for message in self.messages]
                    await self._step("model", "The service refused the images; continuing without them")
                    continue
                if not too_long(error) or self._rejections >= _MAX_REJECTIONS:
                    raise
                self._rejections += 1
                size = context.size(self.messages, _OVERHEAD)
                # The service knows its limit better than the settings do, so each refusal halves the
                # conversation.
                await self._compress(min(self._threshold, size) // 2**self._rejections)

    @property
    def _threshold(self) -> int:
        return int(self.settings.context_storage.compression_threshold * self.spec.context_length)

    def _agent(self) -> Agent[None, Finish | str]:
        agent: Agent[None, Finish | str] = Agent(
            self.model,
            output_type=[FINISH_TOOL, str],
            instructions=self.instructions,
            deps_type=type(None),
            name="coding_agent",
            toolsets=self.toolsets,
            retries={"tools": _LIBRARY_RETRIES, "output": _LIBRARY_RETRIES},
            model_settings=request_settings(self.spec, self.name),
        )

        @agent.output_validator
        async def can_be_the_end(ctx: RunContext[None], output: Finish | str) -> Finish | str:
            if isinstance(output, str):
                check_text(output, [*self.messages, *ctx.messages], _tool_names(ctx))
            done = isinstance(output, str) or output.status == "done"
            # After some tries the work is taken as it is, and the refusal is the task's outcome.
            if done and self._refused_changes < _MAX_REFUSED_CHANGES:
                try:
                    await check_change(self.workspace)
                except ModelRetry:
                    self._refused_changes += 1
                    raise
            return output

        return agent

    async def _talk(self, agent: Agent[None, Finish | str]) -> Finish | str:
        """Run the library's graph once: until the work ends, or until the conversation must be compressed."""
        limits = UsageLimits(request_limit=self.settings.max_llm_process_num)
        history = list(self.messages)
        async with agent.iter(message_history=history, usage=self.usage, usage_limits=limits) as run:
            node = run.next_node
            while not isinstance(node, End):
                too_large = context.size(self.messages, _OVERHEAD) > self._threshold
                # Only before a request: between a call and its results, the conversation could not be cut.
                if isinstance(node, ModelRequestNode) and self._may_compress and too_large:
                    raise _ContextFullError
                following = await run.next(node)
                if isinstance(following, CallToolsNode):
                    response = following.model_response
                    self._rejections = 0
                    self._may_compress = True
                    self._record(response)
                    await self._step("model", step_of_answer(fields_of(response), self.scrub))
                elif isinstance(node, CallToolsNode) and isinstance(following, ModelRequestNode):
                    await self._acted(node.model_response, following.request)
                node = following
        return node.data.output

    async def _acted(self, response: ModelResponse, request: ModelRequest) -> None:
        self._record(request)
        called, returned = fields_of(response), fields_of(request)
        for title in steps_of_results(called, returned, self.scrub, without=FINISH):
            await self._step("tool", title)
        self._check_limits(round_of(response, request))

    def _check_limits(self, latest: Round) -> None:
        self._rounds.append(latest)
        outcome = reached(
            self._rounds,
            tool_errors=MAX_TOOL_ERRORS,
            setting=self.spec.setting,
        )
        if outcome is not None:
            raise LimitReachedError(outcome)

    async def _compress(self, budget: int) -> None:
        """Summarize the older messages, then cut long results if that is not enough."""
        keep = max(1, self.settings.context_storage.keep_recent_messages >> self._rejections)
        parts = context.split(self.messages, keep)
        before = len(self.messages)
        if parts is not None:
            self.messages = context.merged(parts, await self._summary(parts, budget))
        if context.estimate(self.messages) + _OVERHEAD > budget:
            self.messages = context.shorten(self.messages, max(0, budget - _OVERHEAD))
        self._may_compress = False  # until the next answer: doing it twice would not help
        self.transcript.append(fields_of(context.without_images(self.messages[0])))
        await self._step("compress", f"Made room: {before} messages became {len(self.messages)}")

    async def _summary(self, parts: context.Split, budget: int) -> str:
        """Return the model's own summary, or a list of the steps if the model cannot write one."""
        # A list of the steps is good enough, so a failed summary is not tried again.
        writer = Agent(self.model, output_type=str, name="summary", retries=0)
        try:
            result = await writer.run(
                context.to_summarize(parts, budget),
                usage=self.usage,
                usage_limits=UsageLimits(request_limit=self.settings.max_llm_process_num),
                model_settings=ModelSettings(max_tokens=min(2_000, self.spec.max_tokens)),
            )
        except UsageLimitExceeded:
            # The summary is a request too: without this, it would run beyond the limit of the attempt.
            raise
        except AgentRunError as error:
            _logger.warning(
                "Summarizing failed (%s); continuing with a list of the steps", type(error).__name__
            )
            return context.plain_summary(parts, budget // 4)
        # A summary that is longer than what it replaces would help nobody.
        return self.scrub(result.output)[: budget * 2]

    def _record(self, message: ModelMessage) -> None:
        self.messages.append(message)
        self.transcript.append(fields_of(context.without_images(message)))

    async def _step(self, kind: str, title: str) -> None:
        self._steps += 1
        _logger.debug("Step %d (%s): %s", self._steps, kind, title)
        await self.on_step(Step(self._steps, kind, title))


def _tool_names(ctx: RunContext[None]) -> list[str]:
    manager = ctx.tool_manager
    return [tool.name for tool in manager.tool_defs] if manager is not None else []
