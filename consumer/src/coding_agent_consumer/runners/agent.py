"""The agent that drives a CLI coding agent in the workspace.

It starts the program, shows its steps as they come, ends it at the attempt's limits, and says how it ended.
The gateway counts what the program spends; the program's own output does not count.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.text import last_lines, one_line
from coding_agent_core.runtime.retry import Deadline, first_of, with_asked_wait
from coding_agent_core.settings.llm import Anthropic, Google, LMStudio, Ollama, OpenAI
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.runners import RunnerName

from coding_agent_consumer.agent.model_spec import model_spec
from coding_agent_consumer.agent.upstreams import upstreams
from coding_agent_consumer.agent_interface import Brief, Image, OnStep, Step, work_until
from coding_agent_consumer.gateway.wire_formats import says_too_long
from coding_agent_consumer.runners import (
    FOLDER,
    AgentMessage,
    Event,
    Failed,
    Runner,
    RunnerInput,
    ToolCall,
    ToolResult,
    Warned,
)
from coding_agent_consumer.runners.programs import RUNNERS, command_runner, conversation_of
from coding_agent_consumer.transcripts.transcript import (
    Fields,
    Scrub,
    Transcript,
    answer_message,
    prompt_message,
    result_message,
    step_of_answer,
    steps_of_results,
    text_part,
    tool_call,
)
from coding_agent_consumer.workspace.protocol import (
    ProcessResult,
    RunningProcess,
    Workspace,
    WorkspaceGoneError,
    WorkspaceRequestError,
)

if TYPE_CHECKING:
    from coding_agent_consumer.gateway.forwarding import Gateway

_logger = logging.getLogger("coding_agent.agent")

_OVERTIME = 30.0
"""Seconds beyond the attempt's time after which the workspace ends the program, if we cannot."""
_SUMMARY_LENGTH = 16_000
"""The most characters at the end of the model's last text that become the summary."""
_PROBLEM_LENGTH = 500
_REFUSED = {400, 401, 402, 403, 404, 405, 413, 422}
_RETRY_AFTER = 10
"""Seconds to wait, added to a 429 that gives none: without them Codex gives up."""
_LINK_LENGTH = 300


def runner_of(name: RunnerName, settings: Settings) -> Runner:
    """Return the runner of this name, which must not be the built-in agent's.

    Raises:
        SettingsError: no provider speaks the runner's format, or the runner has no command.
    """
    if name is RunnerName.COMMAND:
        if not settings.consumer.command:
            raise SettingsError("consumer.command is not set: `command` needs a program and its arguments")
        return command_runner(settings.consumer.command)
    runner = RUNNERS[name]
    formats = {upstream.format for upstream in upstreams(settings)}
    if runner.format not in formats:
        raise SettingsError(
            f"The runner {runner.name} speaks the format of {runner.format}, and llm.provider"
            f" {settings.llm.provider} does not; set another llm.provider, or another runner in"
            " consumer.runner, consumer.runners and repository_environment.runners"
        )
    return runner


def section_of(runner: Runner, settings: Settings) -> OpenAI | Anthropic | Google | Ollama | LMStudio:
    """Return the settings of the model for a runner's program: those of the service with its format."""
    llm = settings.llm
    own = runner.format is None or runner.format is model_spec(settings).wire_format
    section: OpenAI | Anthropic | Google | Ollama | LMStudio
    section = getattr(llm, llm.provider if own or runner.format is None else runner.format.value)
    return section


class CliAgent:
    """Works with the program of a runner; implements `Agent`."""

    def __init__(self, runner: Runner, settings: Settings, gateway: Gateway) -> None:
        self._runner = runner
        self._settings = settings
        self._gateway = gateway
        self._conversation = ""

    async def work(
        self, brief: Brief, workspace: Workspace, *, stop: asyncio.Event, timeout: float, on_step: OnStep
    ) -> Outcome:
        scrub, deadline = brief.scrub, Deadline.after(timeout)

        async def one(given: Brief, conversation: str) -> Outcome:
            left = max(1.0, deadline.left)
            return await work_until(
                lambda: self._work(given, workspace, scrub, on_step, left, conversation=conversation),
                scrub,
                stop,
                left,
            )

        if brief.follow_up is not None and self._conversation:
            asked = self._gateway.requests
            outcome = await one(replace(brief, prompt=brief.follow_up, images=()), self._conversation)
            # A program that asked the model has begun its work; only one that could not even begin starts
            # anew.
            if outcome.reason is not Reason.RUNNER_FAILED or self._gateway.requests > asked:
                return outcome
            name = self._runner.name
            _logger.warning("%s cannot continue its conversation, and starts anew: %s", name, outcome.message)
        return await one(brief, "")

    async def _work(
        self,
        brief: Brief,
        workspace: Workspace,
        scrub: Scrub,
        on_step: OnStep,
        timeout: float,
        *,
        conversation: str,
    ) -> Outcome:
        asked = self._gateway.requests
        section, most = section_of(self._runner, self._settings), self._settings.max_llm_process_num
        images = files_of(brief.images)
        order = RunnerInput(
            url=self._gateway.url,
            credential=self._gateway.credential,
            model=section.model,
            instructions=brief.instructions,
            prompt=brief.prompt + note_about(brief.images),
            context_length=section.context_length,
            max_output=section.max_token,
            images=tuple(images),
            conversation=conversation,
        )
        launch = self._runner.launch(order)
        # Images are files, because most programs take no binary data on their standard input.
        start = replace(launch.process, files={**launch.process.files, **images})
        record = _Record(
            Transcript(brief.transcript, scrub, brief.last_lines), self._runner.name, scrub, on_step
        )
        record.transcript.append(prompt_message(order.prompt))
        self._gateway.most_requests, self._gateway.retry_after = most, _RETRY_AFTER
        try:
            async with workspace.start(start, timeout=timeout + _OVERTIME) as process:
                # The prompt is not an argument: arguments are limited to 128 KiB, and every process can
                # read them.
                await process.write(launch.input.encode("utf-8", "replace"), end=True)
                # At the limit, a program that says nothing is stopped too.
                await first_of(self._follow(process, record), self._gateway.too_many.wait())
                if self._gateway.too_many.is_set():
                    return Outcome(
                        reason=Reason.LIMIT_REACHED,
                        message=(
                            f"The agent made {most} requests to the model, the most that"
                            " max_llm_process_num allows, and did not finish."
                        ),
                    )
                result = await process.wait()
        except WorkspaceRequestError as error:
            return Outcome(
                reason=Reason.CONFIGURATION, message=f"{self._runner.name} cannot be started: {error}"
            )
        except WorkspaceGoneError as error:
            return Outcome(reason=Reason.WORKSPACE_FAILED, message=f"The workspace was lost: {error}")
        return outcome_of_end(
            self._runner,
            result,
            record.failure,
            record.words,
            requests=self._gateway.requests - asked,
            asked=self._gateway.asked,
        )

    async def _follow(self, process: RunningProcess, record: _Record) -> None:
        """Follow the program's output to its end."""
        self._conversation = ""
        async for line in process.lines():
            self._conversation = self._conversation or conversation_in(self._runner, line)
            for event in events_of(self._runner, line):
                await record.add(event)
        await record.flush()


def files_of(images: Sequence[Image]) -> dict[str, bytes]:
    """Return the images by their path in HOME. Links are other people's text, so no path is made of them."""
    return {
        f"{FOLDER}/images/{number}.{image.media_type.rpartition('/')[2]}": image.data
        for number, image in enumerate(images, 1)
    }


def note_about(images: Sequence[Image]) -> str:
    """Return a text for the prompt that names the images' files; empty without images."""
    if not images:
        return ""
    lines = [
        f"- `~/{path}`: {one_line(image.link, _LINK_LENGTH)}"
        for path, image in zip(files_of(images), images, strict=True)
    ]
    head = "# Images\n\nThe images of the text above are files outside the repository. Look at them.\n"
    return "\n\n" + "\n".join([head, *lines])


def events_of(runner: Runner, line: bytes) -> Iterator[Event]:
    """Yield the events that a line of a runner's output stands for; an unknown line gives none."""
    if runner.events is None:
        yield AgentMessage(f"{line.decode('utf-8', 'replace')}\n", continues=True)
    else:
        yield from runner.events(_fields_of(line))


def conversation_in(runner: Runner, line: bytes) -> str:
    """Return the id of the conversation that a line of a runner's output names; empty if it names none."""
    return "" if runner.events is None else conversation_of(_fields_of(line))


def _fields_of(line: bytes) -> dict[str, Any]:
    """Return the fields of a JSON line; none if it is something else.

    Programs in JavaScript cut texts between the two surrogates of a character, and no outcome can be written
    with such a half. It becomes a question mark.
    """
    try:
        fields = json.loads(line.decode("utf-8", "replace"))
        if b"\\u" in line:
            fields = json.loads(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def outcome_of_end(
    runner: Runner,
    result: ProcessResult,
    failure: Failed | None,
    words: str,
    *,
    requests: int,
    asked: float | None = None,
) -> Outcome:
    """Return the attempt's outcome after a runner's program has ended.

    A program that reports success without a request through the gateway has failed: it used another model.


    Args:
        result: the program's exit code and the end of its errors.
        failure: the failure that the program reported last; `None` if the model answered after it.
        words: the last text of the model, which becomes the summary.
        requests: number of requests that the program made to the model through the gateway.
        asked: seconds for which the model's service asked to wait, if it did.
    """
    if result.truncated:
        return Outcome(
            reason=Reason.RUNNER_FAILED,
            message=f"{runner.name} was ended: it wrote more than 64 MiB of output.",
        )
    reported = failure is not None
    if failure is None and result.exit_code != 0:
        failure = Failed(_end_of(result.errors))
    if failure is None and requests == 0:
        return Outcome(
            reason=Reason.RUNNER_FAILED,
            message=(
                f"{runner.name} reported success without a request to the model through the gateway. A file "
                "of the branch or of the workspace's image may give it another model, or none."
            ),
        )
    if failure is None:
        return Outcome(
            reason=Reason.COMPLETED,
            message="The work is done.",
            summary=last_lines(words.strip(), _SUMMARY_LENGTH),
        )
    status = failure.status
    if status is None and result.exit_code:
        status = runner.status_of(result.exit_code)
    said = one_line(failure.message, _PROBLEM_LENGTH) or "it did not say why"
    # Some programs do not say the status. Another attempt would not fit either.
    if reported and (status is None or status in _REFUSED) and says_too_long(failure.message):
        return Outcome(
            reason=Reason.LIMIT_REACHED,
            message=(
                f"The conversation of {runner.name} does not fit the model's context; check context_length in"
                f" the model's section of llm. It said: {said}"
            ),
        )
    if status is None:
        ended = "ran out of time" if result.exit_code is None else f"ended with status {result.exit_code}"
        return Outcome(reason=Reason.RUNNER_FAILED, message=f"{runner.name} {ended}: {said}")
    if status in _REFUSED:
        return Outcome(
            reason=Reason.MODEL_REFUSED,
            message=f"The model's service refused a request of {runner.name} (HTTP {status}): {said}",
        )
    return Outcome(
        reason=Reason.MODEL_UNAVAILABLE,
        message=with_asked_wait(
            f"The model's service did not answer {runner.name} (HTTP {status}): {said}", asked
        ),
        retry_after=asked,
    )


def _end_of(errors: str) -> str:
    """Return the last lines of a standard error that are not empty."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return " ".join(lines[-3:])


@dataclass
class _Record:
    """Writes events to the transcript and shows them as steps.

    Attributes:
        words: the last text of the model.
        failure: why the program gave up, if the model has said nothing since.
    """

    transcript: Transcript
    runner: str
    scrub: Scrub
    on_step: OnStep
    words: str = ""
    failure: Failed | None = None
    _steps: int = 0
    _text: list[str] = field(default_factory=list)
    _calls: dict[str, Fields] = field(default_factory=dict)

    async def add(self, event: Event) -> None:
        if not (isinstance(event, AgentMessage) and event.continues):
            await self.flush()
        match event:
            case AgentMessage(text, continues):
                self._text.append(text)
                if not continues:
                    await self.flush()
            case ToolCall(id, tool, arguments):
                call = self._calls[id] = tool_call(id or "call", tool, arguments)
                await self._answer(answer_message(call))
            case ToolResult(id, tool, text, failed):
                call = self._calls.pop(id, tool_call(id or "call", tool, {}))
                request = result_message(call, text, failed=failed)
                self.transcript.append(request)
                for title in steps_of_results(answer_message(call), request, self.scrub, without=""):
                    await self._step("tool", title)
            case Warned(message):
                _logger.warning("%s warns: %s", self.runner, one_line(self.scrub(message), _PROBLEM_LENGTH))
            case Failed():
                self.failure = event

    async def flush(self) -> None:
        """Record a text that came in pieces and is complete now."""
        text = "".join(self._text)
        self._text.clear()
        if text.strip():
            self.words, self.failure = text, None
            await self._answer(answer_message(text_part(text)))

    async def _answer(self, response: Fields) -> None:
        self.transcript.append(response)
        await self._step("model", step_of_answer(response, self.scrub))

    async def _step(self, kind: str, title: str) -> None:
        self._steps += 1
        await self.on_step(Step(self._steps, kind, title))
