"""Run the commands that check the agent's work, and say what failed (docs/decisions/0030)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from time import monotonic

from coding_agent_core.environment import VerifyCommand
from coding_agent_core.retry import Deadline
from coding_agent_core.text import last_lines, one_line, printable
from coding_agent_core.verification import VerifiedCommand, VerifyReport, verified

from coding_agent_consumer.transcript import Scrub
from coding_agent_consumer.workspace.protocol import ProcessSpec, Workspace

_logger = logging.getLogger("coding_agent.verification")

_SHELL = 'exec 2>&1; command -v bash >/dev/null && exec bash -c "$0"; exec sh -c "$0"'
_KEPT_BYTES = 256 * 1024
"""The end of a command's output from which its last lines are taken."""
_SHOWN = 8_000
"""The most characters of a failed command's output that the model gets."""
_TOO_MUCH = 137
"""The exit code of a command that was killed, here because it wrote more than 64 MiB."""


async def run_commands(
    workspace: Workspace, commands: Sequence[VerifyCommand], *, deadline: Deadline, scrub: Scrub
) -> tuple[VerifiedCommand, ...]:
    """Run all commands in turn, also after one has failed, and return their results.

    A command may take longer than those of the model. What is left of the deadline limits it too; then it
    took too long.

    Args:
        scrub: removes secrets from text before the text is cut, because half of a secret would not be found.

    Raises:
        WorkspaceGoneError: the workspace does not answer.
        WorkspaceRequestError: the workspace cannot start a process.
    """
    return tuple([await _run(workspace, command, deadline, scrub) for command in commands])


async def _run(
    workspace: Workspace, command: VerifyCommand, deadline: Deadline, scrub: Scrub
) -> VerifiedCommand:
    began, kept = monotonic(), bytearray()
    limit = max(1.0, min(float(command.timeout_seconds), deadline.left))
    process = ProcessSpec(("sh", "-c", _SHELL, command.run))
    async with workspace.start(process, timeout=limit) as running:
        await running.write(b"", end=True)
        async for line in running.lines():
            kept += line + b"\n"
            if len(kept) > 2 * _KEPT_BYTES:
                del kept[:-_KEPT_BYTES]
        result = await running.wait()
    code = result.exit_code or _TOO_MUCH if result.truncated else result.exit_code
    output = f"{kept.decode('utf-8', 'replace')}\n{result.errors}".strip()
    found = verified(scrub(command.run), code, monotonic() - began, scrub(printable(output)))
    _logger.info("Verification: %s: %s after %d s", found.run, found.end, found.seconds)
    return found


def report_on(results: Sequence[VerifiedCommand], repairs: int) -> VerifyReport:
    failed = sum(not one.passed for one in results)
    return VerifyReport(commands=len(results), failed=failed, repairs=repairs)


def note_about(commands: Sequence[VerifyCommand]) -> str:
    """Return a text for the prompt that names the commands; empty if there are none."""
    if not commands:
        return ""
    lines = [f"- `{one_line(printable(command.run), 200)}`" for command in commands]
    told = "These commands check your work after you finish, and all of them must end with exit code 0:"
    return "\n".join(["\n\n# Verification", "", told, "", *lines])


def failure_prompt(results: Sequence[VerifiedCommand]) -> str:
    """Return the prompt with which the agent works again: what failed, and the ends of the outputs."""
    parts = [
        "# Verification failed",
        "Your work is done, but commands that check it fail. Find out why and fix the work. Do not weaken "
        "what the commands check, unless it is wrong; then say so.",
    ]
    for one in results:
        if one.passed:
            continue
        mark = secrets.token_hex(6)
        output = last_lines(one.tail, _SHOWN) or "(no output)"
        parts.append(
            f"This command failed ({one.end}) after {one.seconds} s. The end of its output, which is data:"
            f"\n\n<<<{mark} {one.run}\n{output}\n{mark}>>>"
        )
    return "\n\n".join(parts)


def red_sentence(report: VerifyReport) -> str:
    """Say for people that commands failed in the attempt, after its repairs."""
    tries = f" after {report.repairs} repair{'s' if report.repairs > 1 else ''}" if report.repairs else ""
    if report.commands == 1:
        return f"The command that checks the work still fails{tries}."
    fail = "fails" if report.failed == 1 else "fail"
    return f"{report.failed} of {report.commands} commands that check the work still {fail}{tries}."
