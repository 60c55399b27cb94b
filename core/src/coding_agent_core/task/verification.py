"""The results of the commands that check the agent's work, and the evidence from them. Pure.

The commands run twice. In the attempt, a failure is the agent's next prompt, but its result proves nothing:
the agent's own commands ran in the same workspace. After the push, they run in an evidence pod, which has
neither the agent nor its workspace, on exactly the pushed commit, and on the commit of the base branch that
the change starts from. Only that is evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from coding_agent_core.platforms.text import beginning, last_lines, one_line, printable
from coding_agent_core.task.environment import MAX_VERIFY_COMMANDS, Environment
from coding_agent_core.task.model import Frozen, Item

VERIFY_STATUS = "coding-agent/verify"
"""The commit status with the result of the evidence pods. If it fails, it is a cause of rounds like any other
check. Nothing but evidence has this name."""
RED_ON_BASE = "Fails on the base branch too"
NOT_CHECKED = "Could not be checked"
"""Beginnings of descriptions of `VERIFY_STATUS`, by which `rounds.checks` knows what no round can fix."""
VERIFY_VARIABLE = "CODING_AGENT_VERIFY"
"""The environment variable of an evidence pod's containers that contains `VerifyInput` as JSON."""
MAX_TRIES = 3
"""This many pods of each side may end without a result; then the evidence has the state `error`."""
MAX_DESCRIPTION = 140
"""Maximum number of characters of a commit status's description on GitHub; GitLab accepts 255."""
_MESSAGE_BYTES = 4096
"""As `attempts.MAX_MESSAGE_BYTES`."""
_RUN, _TAIL, _PROBLEM = 200, 2000, 1000

Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40,64}$", max_length=64)]


class _Stored(Frozen):
    # A newer release's fields must not stop an older program.
    model_config = ConfigDict(extra="ignore", populate_by_name=True, alias_generator=to_camel)


class Side(StrEnum):
    """The commit on which an evidence pod runs the commands."""

    HEAD = "head"
    """The commit that the attempt pushed."""
    BASE = "base"
    """The newest commit of the base branch that the pushed commit contains."""


class VerifyReport(_Stored):
    """The result of the commands inside the attempt, after the last repair.

    Attributes:
        commands: the number of commands.
        failed: how many of them failed.
        repairs: how many times the agent worked again because of a failure.
    """

    commands: int = Field(ge=0, le=MAX_VERIFY_COMMANDS)
    failed: int = Field(default=0, ge=0, le=MAX_VERIFY_COMMANDS)
    repairs: int = Field(default=0, ge=0, le=5)


def not_run(commands: int) -> VerifyReport | None:
    """Return the report of commands that did not run in the attempt: none of them has passed."""
    return VerifyReport(commands=commands, failed=commands) if commands else None


class VerifyInput(Frozen):
    """The input of an evidence pod. It contains no secret.

    Attributes:
        branch: the branch that must contain the commit; `None`: the change's own.
        commit: the commit that the attempt pushed.
        timeout_seconds: the time limit of cloning, setup and all commands together.
        environment: the environment with which the pod was made.
    """

    item: Item
    branch: str | None = Field(default=None, max_length=255)
    commit: Commit
    side: Side
    timeout_seconds: int = Field(ge=1)
    environment: Environment = Environment()


class VerifiedCommand(_Stored):
    """The result of a command.

    Attributes:
        run: the command, on one line and cut.
        exit_code: `None` if the command took too long and was killed.
        tail: the end of its output, as plain text.
    """

    run: str = Field(max_length=_RUN)
    exit_code: int | None = Field(default=None, ge=0, le=255)
    seconds: int = Field(ge=0, le=2**31 - 1)
    tail: str = Field(default="", max_length=_TAIL)

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def end(self) -> str:
        """A phrase that says how the command ended."""
        return "took too long" if self.exit_code is None else f"exit code {self.exit_code}"


def verified(run: str, exit_code: int | None, seconds: float, output: str) -> VerifiedCommand:
    """Return the result of a command, with its texts cut to the fields' limits. Remove secrets first."""
    return VerifiedCommand(
        run=one_line(printable(run), _RUN - 1),
        exit_code=exit_code,
        seconds=max(0, round(seconds)),
        tail=last_lines(output, _TAIL),
    )


class VerifyResult(_Stored):
    """What an evidence pod reports as its termination message.

    Attributes:
        version: the version of this format.
        commit: the commit that was checked out.
        problem: why there is no result, as a sentence, if another pod would not help.
    """

    version: Literal[1] = 1
    commit: Commit
    commands: tuple[VerifiedCommand, ...] = Field(default=(), max_length=MAX_VERIFY_COMMANDS)
    problem: str = Field(default="", max_length=_PROBLEM)

    def to_termination_message(self) -> str:
        """Return the result as JSON of at most 4 KiB, which is the limit of a termination message.

        A longer result loses the ends of its outputs, those of passed commands first.
        """
        for failed, passed in ((_TAIL, 200), (1000, 100), (500, 50), (200, 0), (50, 0), (0, 0)):
            cut = tuple(
                one.model_copy(update={"tail": last_lines(one.tail, passed if one.passed else failed)})
                for one in self.commands
            )
            text = self.model_copy(update={"commands": cut}).model_dump_json(exclude_defaults=True)
            if len(text.encode()) <= _MESSAGE_BYTES:
                return text
        short = tuple(
            one.model_copy(update={"tail": "", "run": beginning(one.run, 40)}) for one in self.commands
        )
        problem = beginning(self.problem, 200)
        shortest = self.model_copy(update={"commands": short, "problem": problem})
        return shortest.model_dump_json(exclude_defaults=True)

    @staticmethod
    def from_termination_message(text: str) -> VerifyResult | None:
        """Read a termination message. Return `None` for other text and for a result without any content."""
        try:
            left = VerifyResult.model_validate_json(text)
        except ValidationError:
            return None
        if not left.commands and not left.problem:
            return None
        commands = tuple(
            one.model_copy(
                update={"run": one_line(printable(one.run), _RUN - 1), "tail": last_lines(one.tail, _TAIL)}
            )
            for one in left.commands
        )
        return left.model_copy(update={"commands": commands, "problem": printable(left.problem)})


class SideEvidence(_Stored):
    """The evidence about one commit.

    Attributes:
        job: the name of the Job of the newest try.
        tries: how many pods were started.
        commit: the commit that was checked out; `None` until a pod has reported it.
        problem: why there is no result, as a sentence; while tries are left, why the last one ended.
        settled: whether no further pod is started.
    """

    job: str = Field(max_length=63)
    tries: int = Field(ge=1, le=MAX_TRIES)
    commit: Commit | None = None
    commands: tuple[VerifiedCommand, ...] = Field(default=(), max_length=MAX_VERIFY_COMMANDS)
    problem: str | None = Field(default=None, max_length=_PROBLEM)
    settled: bool = False

    @property
    def failed(self) -> tuple[VerifiedCommand, ...]:
        return tuple(one for one in self.commands if not one.passed)


class EvidenceState(StrEnum):
    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


class Evidence(_Stored):
    """The evidence of a task's evidence pods, in the task's status.

    Attributes:
        commit: the commit that the attempt pushed.
        state: `error` if it is not known whether the commands pass. It is never `success` unless all of them
            ended with exit code 0 on exactly this commit.
        description: a sentence that explains the state.
        started: when the first pod was asked for.
    """

    commit: Commit
    state: EvidenceState = EvidenceState.PENDING
    description: str = Field(default="", max_length=MAX_DESCRIPTION)
    started: datetime
    head: SideEvidence | None = None
    base: SideEvidence | None = None

    @property
    def pending(self) -> bool:
        return self.state is EvidenceState.PENDING

    def side(self, side: Side) -> SideEvidence | None:
        return self.head if side is Side.HEAD else self.base


def stored_evidence(value: Any) -> Any:
    """Read stored evidence. Return `None` if it is broken, so that the rest of the status stays readable."""
    if value is None or isinstance(value, Evidence):
        return value
    try:
        return Evidence.model_validate(value)
    except ValidationError:
        return None


def judged(evidence: Evidence) -> Evidence:
    """Return the evidence with the state and the description that follow from the results of both commits."""
    state, description = _verdict(evidence)
    return evidence.model_copy(
        update={"state": state, "description": one_line(description, MAX_DESCRIPTION - 1)}
    )


def _verdict(evidence: Evidence) -> tuple[EvidenceState, str]:
    head, base = evidence.head, evidence.base
    if head is None or not head.settled:
        return EvidenceState.PENDING, "The commands run on this commit, without the agent."
    if not head.commands or head.problem:
        return EvidenceState.ERROR, f"{NOT_CHECKED}: {head.problem or 'no command ran.'}"
    # The attempt only claims a commit. Results count only if the pod itself has checked out this commit.
    if head.commit != evidence.commit:
        return EvidenceState.ERROR, f"{NOT_CHECKED}: the pod checked out another commit."
    if base is None or not base.settled:
        return EvidenceState.PENDING, "The commands run on the base branch, to compare."
    count = len(head.commands)
    if not head.failed:
        return EvidenceState.SUCCESS, f"All {count} commands pass." if count > 1 else "The command passes."
    red, first = len(head.failed), head.failed[0]
    told = f"{red} of {count} commands fail{'s' if red == 1 else ''}" if count > 1 else "the command fails"
    told = f"{RED_ON_BASE}: {told}" if _fails_too(head.failed, base.commands) else told[0].upper() + told[1:]
    last = first.tail.rpartition("\n")[2]
    return EvidenceState.FAILURE, f"{told}: {one_line(first.run, 40)} ({first.end}){last and ': '}{last}"


def _fails_too(failed: Sequence[VerifiedCommand], base: Sequence[VerifiedCommand]) -> bool:
    """Whether every failed command also fails on the base commit, so that the change broke nothing."""
    red = {one.run for one in base if not one.passed}
    return all(one.run in red for one in failed)
