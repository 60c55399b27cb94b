"""How the commands that check the work run: what counts as passed, for how long, and what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_consumer.verification.commands import failure_prompt, run_commands
from coding_agent_consumer.workspace.protocol import ProcessResult, ProcessSpec, Workspace
from coding_agent_core.runtime.retry import Clock, Deadline
from coding_agent_core.task.environment import VerifyCommand
from coding_agent_core.task.verification import VerifiedCommand

SECRET = "hunter2-0123456789-abcdefghij"


class Ended:
    """A process that has ended, with its output."""

    def __init__(self, output: bytes, result: ProcessResult) -> None:
        self.output = output
        self.result = result

    async def write(self, _data: bytes, *, end: bool) -> None:
        assert end, "a command that reads its input must not wait"

    async def lines(self) -> AsyncIterator[bytes]:
        for line in self.output.split(b"\n"):
            yield line

    async def wait(self) -> ProcessResult:
        return self.result


class EndedWorkspace:
    """Each command of it ends at once, as told."""

    def __init__(self, *ends: Ended) -> None:
        self.ends = list(ends)
        self.started: list[tuple[str, float]] = []

    @asynccontextmanager
    async def start(self, process: ProcessSpec, *, timeout: float) -> AsyncIterator[Ended]:
        self.started.append((process.argv[-1], timeout))
        yield self.ends[len(self.started) - 1]


async def results_of(
    workspace: EndedWorkspace, *commands: dict[str, Any], left: float = 1000
) -> Sequence[VerifiedCommand]:
    deadline = Deadline.after(left, Clock(monotonic=lambda: 0.0))
    given = [VerifyCommand.model_validate(command) for command in commands]
    return await run_commands(cast(Workspace, workspace), given, deadline=deadline, scrub=Scrub([SECRET]))


@pytest.mark.parametrize(
    ("result", "exit_code", "end"),
    [
        pytest.param(ProcessResult(0, ""), 0, "exit code 0", id="passed"),
        pytest.param(ProcessResult(1, ""), 1, "exit code 1", id="failed"),
        pytest.param(ProcessResult(None, ""), None, "took too long", id="killed after its time"),
        pytest.param(ProcessResult(0, "", truncated=True), 137, "exit code 137", id="wrote too much"),
        pytest.param(ProcessResult(None, "", truncated=True), 137, "exit code 137", id="and took long"),
        pytest.param(ProcessResult(143, "", truncated=True), 143, "exit code 143", id="killed for that"),
    ],
)
async def test_only_a_command_that_ended_by_itself_with_0_has_passed(
    result: ProcessResult, exit_code: int | None, end: str
) -> None:
    [found] = await results_of(EndedWorkspace(Ended(b"out", result)), {"run": "make test"})
    assert (found.exit_code, found.end, found.passed) == (exit_code, end, exit_code == 0)


async def test_all_commands_run_even_after_one_has_failed() -> None:
    workspace = EndedWorkspace(*(Ended(b"", ProcessResult(code, "")) for code in (1, None, 0)))
    found = await results_of(workspace, {"run": "a"}, {"run": "b"}, {"run": "c"})
    assert [(one.run, one.exit_code) for one in found] == [("a", 1), ("b", None), ("c", 0)]
    prompt = failure_prompt(found)
    assert prompt.count("This command failed (") == 2
    assert "This command failed (took too long)" in prompt


@pytest.mark.parametrize(
    ("own", "left", "limit"),
    [
        pytest.param(30, 1000, 30, id="its own"),
        pytest.param(600, 45, 45, id="what is left of the attempt"),
        pytest.param(600, -3, 1, id="nothing is left"),
    ],
)
async def test_a_command_has_no_more_time_than_there_is(own: int, left: float, limit: float) -> None:
    workspace = EndedWorkspace(Ended(b"", ProcessResult(0, "")))
    await results_of(workspace, {"run": "make test", "timeout_seconds": own}, left=left)
    assert workspace.started == [("make test", limit)]


@pytest.mark.parametrize("after", [1970, 1985, 1995])
async def test_secrets_are_removed_before_the_output_is_cut(after: int) -> None:
    """After the cut, half of a secret would be left, which nobody finds."""
    output = f"login {SECRET}{'x' * after}".encode()
    errors = f"refused: {SECRET}"
    run = f"{'y' * 185} {SECRET}"
    [found] = await results_of(EndedWorkspace(Ended(output, ProcessResult(1, errors))), {"run": run})
    [quiet] = await results_of(EndedWorkspace(Ended(output, ProcessResult(1, ""))), {"run": run})
    for text in (found.tail, quiet.tail, found.run, quiet.run):
        assert "hunter" not in text
        assert "ghij" not in text
    assert found.tail.endswith("refused: ***")


async def test_the_end_of_a_long_output_is_kept() -> None:
    lines = b"\n".join(b"%07d" % number for number in range(200_000))
    [found] = await results_of(EndedWorkspace(Ended(lines, ProcessResult(1, ""))), {"run": "make test"})
    assert found.tail.endswith("0199999")
