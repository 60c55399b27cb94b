"""The workspace as tools of the model (requirement S20)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from pydantic_ai import FunctionToolset, ToolFailed

from coding_agent_consumer.workspace.protocol import CommandResult, Workspace, WorkspaceRefusedError

_T = TypeVar("_T")


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
            new: What stands there afterwards.
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
    """A command's result in words for the model. It holds no times: equal results look equal."""
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
