"""What the model can call: the workspace, and `finish` to end its work.

The model may also end with plain text after it has done something, so that no request has to force a tool
call, which some servers refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Collection
from typing import Any, Literal, TypeVar

from coding_agent_core.outcome import Outcome
from coding_agent_core.reasons import Reason
from coding_agent_core.text import one_line
from pydantic import BaseModel, Field
from pydantic_ai import FunctionToolset, ModelRetry, ToolFailed, ToolOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart

from coding_agent_consumer.commits import PatchRefusedError, require_bounded
from coding_agent_consumer.workspace.protocol import CommandResult, Workspace, WorkspaceRefusedError

_T = TypeVar("_T")
FINISH = "finish"
_EXCERPT_LENGTH = 300
"""Characters of the agent's own summary in a sentence for a person."""
_USE_TOOLS = (
    "Nothing was done yet. Call the tools to work in the repository. If nothing has to be done or it cannot"
    f" be done, call `{FINISH}` with the status that says so."
)
_NATIVE_CALLS = "That was a tool call written as text, which does nothing. Call the tool itself."


def workspace_tools(workspace: Workspace) -> FunctionToolset[Any]:
    """Tools over a workspace, run one after the other: an edit is done before the tests that follow it.

    A refusal is an answer to the model; a workspace that is gone ends the run with `WorkspaceGoneError`.
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
    """A command's result as the model sees it. It holds no times: equal results look equal."""
    if result.timed_out:
        end = f"killed: it ran out of time after {result.seconds:.0f} s"
    else:
        end = f"exit code {result.exit_code}"
    return f"{result.output.rstrip()}\n[{end}]".lstrip()


async def _answer(action: Awaitable[_T]) -> _T:
    try:
        return await action
    except WorkspaceRefusedError as error:
        raise ToolFailed(str(error)) from error


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
        ModelRetry: says to the model what to do instead.
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
        ModelRetry: says to the model why.
    """
    try:
        require_bounded(await workspace.diff())
    except (WorkspaceRefusedError, PatchRefusedError) as error:
        raise ModelRetry(f"The work cannot be taken over yet. {error}") from error


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
