"""Settings of verification: commands that check the agent's work (docs/decisions/0030)."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from coding_agent_core.environment import RepositoryFile, VerifyCommand, VerifyCommands
from coding_agent_core.settings.section import Section


class OnFailure(StrEnum):
    """What happens to work that still fails a command after the last repair."""

    PUSH = "push"
    """It is pushed and offered as a change, which says so."""
    FAIL = "fail"
    """The task fails, and no change is opened. The work stays on the task's branch."""


class Verify(Section):
    """Commands that check the agent's work: in the attempt before its push, and on Kubernetes once more after
    it, in a pod without the agent. A repository names its own in `.coding-agent.yaml`."""

    commands: VerifyCommands = ()
    """Commands for repositories whose `.coding-agent.yaml` has no `verify`: a command, or `run` with
    `timeout_seconds` (600 by default, 7200 at most) and `setup` (`false`: without the repository's setup)."""
    repairs: int = Field(default=2, ge=0, le=5)
    """How many times the agent gets the output of failed commands and works again, within the attempt's time
    and budget."""
    on_failure: OnFailure = OnFailure.PUSH
    """What happens to work that still fails: `push` offers it as a change that says so; `fail` ends the task
    as failed."""
    evidence: bool = True
    """Whether, on Kubernetes, the commands run again after the push, in a pod that has neither the agent nor
    its workspace. The result is the commit status `coding-agent/verify`."""
    shared: bool = False
    """Whether, in such a pod, all commands share a workspace and one run of `setup`. That is faster, but a
    command then sees what the commit's code has changed before."""
    timeout_seconds: int = Field(default=3600, ge=60, le=86_400)
    """Seconds that cloning, setup and all commands may take in such a pod."""

    def commands_of(self, file: RepositoryFile) -> tuple[VerifyCommand, ...]:
        """Return the commands for a repository with this file."""
        return self.commands if file.verify is None else file.verify
