"""The agent's loop: ask, run the tools, look at the limits, make room when the context fills up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coding_agent_core.settings import Settings
from pydantic_ai import Agent, CallToolsNode, ModelRequestNode, RunContext
from pydantic_ai.exceptions import AgentRunError, ModelAPIError, OutputTokenLimitExceeded, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.usage import RunUsage, UsageLimits
from pydantic_graph import End

from coding_agent_consumer.agent import context, steps
from coding_agent_consumer.agent.failures import StoppedError, too_long
from coding_agent_consumer.agent.finish import FINISH_TOOL, Finish, check_text
from coding_agent_consumer.agent.limits import Limits, Round, round_of, verdict
from coding_agent_consumer.agent.models import ModelSpec
from coding_agent_consumer.agent.protocol import OnStep, Step
from coding_agent_consumer.agent.scrub import Scrub
from coding_agent_consumer.agent.transcript import Transcript

_logger = logging.getLogger("coding_agent.agent")

_LIBRARY_RETRIES = 1_000_000
"""The library's own caps are out of the way: `limits` counts what it shows us."""
_OVERHEAD = 2_000
"""Tokens of instructions and tools, until the service reports the first request."""
_MAX_REJECTIONS = 3
"""Times in a row that a conversation may be refused as too long before we give up."""
_TOO_LONG_ANSWER = (
    "Your last answer was cut off because it was too long, and nothing of it was done. Go on in smaller"
    " steps: write or edit files piece by piece."
)


class _ContextFullError(Exception):
    """Make room before the next request."""


@dataclass
class Conversation:
    """One attempt's exchange with the model.

    Attributes:
        usage: counted here also where the attempt fails.
        messages: the conversation as the model sees it, compressed where that was needed.
    """

    settings: Settings
    spec: ModelSpec
    model: Model
    instructions: str
    toolsets: Sequence[AbstractToolset[Any]]
    transcript: Transcript
    scrub: Scrub
    on_step: OnStep
    usage: RunUsage
    messages: list[ModelMessage] = field(default_factory=list)
    _rounds: list[Round] = field(default_factory=list)
    _steps: int = 0
    _rejections: int = 0
    _may_compress: bool = True

    async def run(self, prompt: str) -> Finish | str:
        """Talk until the model ends its work.

        Raises:
            StoppedError: a limit of ours was reached.
            AgentRunError: the model's service failed for good, or the number of requests is used up.
            WorkspaceGoneError: the workspace is gone.
        """
        agent = self._agent()
        self._record(ModelRequest(parts=[UserPromptPart(prompt)]))
        while True:
            try:
                return await self._talk(agent)
            except _ContextFullError:
                await self._compress(self._threshold)
            except OutputTokenLimitExceeded:
                self._ask_for_less()
            except ModelAPIError as error:
                if not too_long(error) or self._rejections >= _MAX_REJECTIONS:
                    raise
                self._rejections += 1
                size = context.size(self.messages, _OVERHEAD)
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
            model_settings=ModelSettings(max_tokens=self.spec.max_tokens),
        )

        @agent.output_validator
        def can_be_the_end(ctx: RunContext[None], output: Finish | str) -> Finish | str:
            if isinstance(output, str):
                check_text(output, [*self.messages, *ctx.messages], _tool_names(ctx))
            return output

        return agent

    async def _talk(self, agent: Agent[None, Finish | str]) -> Finish | str:
        """One run of the library's graph: until the end, or until the conversation must be rebuilt."""
        limits = UsageLimits(request_limit=self.settings.max_llm_process_num)
        history = list(self.messages)
        async with agent.iter(message_history=history, usage=self.usage, usage_limits=limits) as run:
            node = run.next_node
            while not isinstance(node, End):
                if isinstance(node, ModelRequestNode):
                    self._make_sure_it_fits()
                following = await run.next(node)
                if isinstance(following, CallToolsNode):
                    await self._answered(following.model_response)
                elif isinstance(node, CallToolsNode) and isinstance(following, ModelRequestNode):
                    await self._acted(node.model_response, following.request)
                node = following
        return node.data.output

    def _make_sure_it_fits(self) -> None:
        if self._may_compress and context.size(self.messages, _OVERHEAD) > self._threshold:
            raise _ContextFullError

    async def _answered(self, response: ModelResponse) -> None:
        self._rejections = 0
        self._may_compress = True
        self._record(response)
        await self._step("model", *steps.of_answer(response, self.scrub))

    async def _acted(self, response: ModelResponse, request: ModelRequest) -> None:
        self._record(request)
        for title, detail in steps.of_results(response, request, self.scrub):
            await self._step("tool", title, detail)
        self._judge(round_of(response, request))

    def _judge(self, latest: Round) -> None:
        self._rounds.append(latest)
        limits = Limits(
            tool_errors=self.settings.consumer.max_tool_errors,
            malformed_answers=self.settings.consumer.max_malformed_answers,
            setting=self.spec.setting,
        )
        if (stop := verdict(self._rounds, limits)) is not None:
            raise StoppedError(stop.reason, self.scrub(stop.message))

    def _ask_for_less(self) -> None:
        """After an answer of which nothing was usable before its limit: leave it out and say so."""
        self._judge(Round((), usable=False, cut=True))
        if isinstance(self.messages[-1], ModelResponse):
            # Services refuse an empty answer in the history.
            self.messages[-1] = replace(self.messages[-1], parts=[TextPart("(cut off)")])
        self._record(ModelRequest(parts=[UserPromptPart(_TOO_LONG_ANSWER)]))

    async def _compress(self, budget: int) -> None:
        """Summarise the older messages, then cut long results if that is not enough."""
        keep = max(1, self.settings.context_storage.keep_recent_messages >> self._rejections)
        parts = context.split(self.messages, keep)
        before = len(self.messages)
        if parts is not None:
            self.messages = context.merged(parts, await self._summary(parts, budget))
        if context.estimate(self.messages) + _OVERHEAD > budget:
            self.messages = context.shorten(self.messages, max(0, budget - _OVERHEAD))
        self._may_compress = False  # until the next answer: once is all that it can do
        self.transcript.append(self.messages[0])
        await self._step("compress", f"Made room: {before} messages became {len(self.messages)}", "")

    async def _summary(self, parts: context.Split, budget: int) -> str:
        """The model's own summary; a list of the steps where it cannot give one."""
        writer = Agent(self.model, output_type=str, name="summary", retries=0)
        try:
            result = await writer.run(
                context.to_summarise(parts, budget),
                usage=self.usage,
                usage_limits=UsageLimits(request_limit=self.settings.max_llm_process_num),
                model_settings=ModelSettings(max_tokens=min(2_000, self.spec.max_tokens)),
            )
        except UsageLimitExceeded:
            raise
        except AgentRunError as error:
            _logger.warning(
                "Summarising failed (%s), going on with a list of the steps", type(error).__name__
            )
            return context.plain_summary(parts, budget // 4)
        return self.scrub(result.output)[: budget * 2]

    def _record(self, message: ModelMessage) -> None:
        self.messages.append(message)
        self.transcript.append(message)

    async def _step(self, kind: str, title: str, detail: str) -> None:
        self._steps += 1
        _logger.debug("Step %d (%s): %s", self._steps, kind, title)
        await self.on_step(Step(number=self._steps, kind=kind, title=title, detail=detail))


def _tool_names(ctx: RunContext[None]) -> list[str]:
    manager = ctx.tool_manager
    return [tool.name for tool in manager.tool_defs] if manager is not None else []
