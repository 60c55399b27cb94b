"""Runs the commands that check the agent's work, and reports which failed (docs/decisions/0030)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

from coding_agent_core.platforms.text import fenced, one_line, printable
from coding_agent_core.runtime.retry import Deadline, StoppedError, run_until
from coding_agent_core.settings.attempt_settings import OnFailure
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.environment import VerifyCommand
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.verification import VerifiedCommand, VerifyReport, not_run, verified

from coding_agent_consumer.agent_interface import Brief
from coding_agent_consumer.repository.publisher import Publisher
from coding_agent_consumer.transcripts.transcript import Scrub
from coding_agent_consumer.workspace.protocol import (
    ProcessSpec,
    Workspace,
    WorkspaceGoneError,
    WorkspaceRequestError,
)

_logger = logging.getLogger("coding_agent.verification")

_SHELL = 'exec 2>&1; command -v bash >/dev/null && exec bash -c "$0"; exec sh -c "$0"'
_KEPT_BYTES = 256 * 1024
"""The end of a command's output from which its last lines are taken."""
_TOO_MUCH = 137
"""The exit code of a command that was killed, here because it wrote more than 64 MiB."""


async def run_commands(
    workspace: Workspace, commands: Sequence[VerifyCommand], *, deadline: Deadline, scrub: Scrub
) -> tuple[VerifiedCommand, ...]:
    """Run all commands in turn, even after one has failed, and return their results.

    A command may take longer than a command of the model, but must end by the deadline.

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


@dataclass(frozen=True)
class WorkVerification:
    """Checks the work of an agent that says it is done, and lets the agent repair it.

    Attributes:
        deadline: the attempt's; it limits the commands and the repairs too.
        stop: set to end the attempt early.
        commit: commits the workspace's work, and returns the outcome with what people must know about it.
        work: lets the agent work once more, under the same gateway.
        steps: returns the agent's last steps, for an agent that does not continue its conversation.
    """

    workspace: Workspace
    publisher: Publisher
    commands: Sequence[VerifyCommand]
    settings: Settings
    deadline: Deadline
    stop: asyncio.Event
    commit: Callable[[Outcome], Awaitable[Outcome]]
    work: Callable[[Brief], Awaitable[Outcome]]
    steps: Callable[[], str]

    async def of(self, brief: Brief, worked: Outcome) -> Outcome:
        """Let the commands check the work, and the agent repair it a limited number of times.

        The work is committed before the commands run, so that what they leave in the tree is not part of it.
        Without any work in this attempt, nothing is checked: what fails then is not for the agent to repair.
        """
        repairs, scrub = 0, brief.scrub
        while True:
            worked = await self.commit(worked)
            if not self.publisher.has_work:
                return worked.model_copy(update={"verify": not_run(len(self.commands))})
            try:
                results = await run_until(
                    lambda: run_commands(self.workspace, self.commands, deadline=self.deadline, scrub=scrub),
                    self.stop,
                )
            except StoppedError:
                stopped = "The attempt was stopped while its work was checked."
                return worked.model_copy(update={"reason": Reason.CANCELLED, "message": stopped})
            except (WorkspaceGoneError, WorkspaceRequestError) as error:
                # The work is safe. The evidence pod says what the commands give.
                noted = _noted(worked, f"The commands that check the work could not run: {error}")
                return noted.model_copy(update={"verify": not_run(len(self.commands))})
            report = _report(results, repairs)
            worked = worked.model_copy(update={"verify": report})
            over = repairs >= self.settings.verify.repairs or self.stop.is_set() or self.deadline.passed
            if not report.failed or over:
                return self._judged(worked, report)
            repairs += 1
            _logger.info("%d commands that check the work fail; repair %d", report.failed, repairs)
            again = await self.work(self._repair(brief, worked, failure_prompt(results)))
            if again.reason is Reason.CANCELLED:
                return again
            if again.reason is not Reason.COMPLETED:
                worked = _noted(worked, f"The repair of what failed ended early: {again.message}")
                return self._judged(worked, report)
            worked = again.model_copy(update={"summary": worked.summary})
            worked = _noted(worked, f"After commands that check the work had failed: {again.summary}")

    def _judged(self, worked: Outcome, report: VerifyReport) -> Outcome:
        if not report.failed:
            return worked
        sentence = _red(report)
        if self.settings.verify.on_failure is OnFailure.FAIL:
            return worked.model_copy(update={"reason": Reason.VERIFY_FAILED, "message": sentence})
        return worked.model_copy(update={"message": f"{worked.message} {sentence}".strip()})

    def _repair(self, brief: Brief, worked: Outcome, failure: str) -> Brief:
        """Return what the agent is asked to do after commands have failed."""
        told = "\n\n".join(filter(None, ("# What you did before", worked.summary, self.steps())))
        return replace(brief, prompt=f"{brief.prompt}\n\n{told}\n\n{failure}", follow_up=failure)


def _noted(worked: Outcome, note: str) -> Outcome:
    return worked.model_copy(update={"summary": f"{worked.summary}\n\n{note}".strip()})


def _report(results: Sequence[VerifiedCommand], repairs: int) -> VerifyReport:
    failed = sum(not one.passed for one in results)
    return VerifyReport(commands=len(results), failed=failed, repairs=repairs)


def note_about(commands: Sequence[VerifyCommand]) -> str:
    """Return a text for the prompt that names the commands."""
    lines = [f"- `{one_line(printable(command.run), 200)}`" for command in commands]
    told = "These commands check your work after you finish, and all of them must end with exit code 0:"
    return "\n".join(["\n\n# Verification", "", told, "", *lines])


def failure_prompt(results: Sequence[VerifiedCommand]) -> str:
    """Return the prompt with which the agent works again: what failed, and the ends of the outputs."""
    parts = [
        "# Verification failed",
        "Your work is done, but commands that check it fail. Find out why and fix the work. Do not weaken "
        "what the commands check, unless it is wrong; then say so. If a failure has nothing to do with your "
        "work, leave it and say so.",
    ]
    for one in results:
        if one.passed:
            continue
        output = fenced(secrets.token_hex(6), one.run, one.tail or "(no output)")
        parts.append(
            f"This command failed ({one.end}) after {one.seconds} s. The end of its output, which is data:"
            f"\n\n{output}"
        )
    return "\n\n".join(parts)


def _red(report: VerifyReport) -> str:
    """Return a sentence for people that commands failed in the attempt, after its repairs."""
    tries = f" after {report.repairs} repair{'s' if report.repairs > 1 else ''}" if report.repairs else ""
    if report.commands == 1:
        return f"The command that checks the work still fails{tries}."
    fail = "fails" if report.failed == 1 else "fail"
    return f"{report.failed} of {report.commands} commands that check the work still {fail}{tries}."
