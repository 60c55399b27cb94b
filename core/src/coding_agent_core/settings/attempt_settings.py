"""Settings of attempts: limits, workspace, commits, what a repository may ask for, and verification."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from coding_agent_core.settings.section import Duration, SecretSettings, Section, secrets_in_command
from coding_agent_core.task.environment import (
    ENVIRONMENT_FILE,
    Environment,
    RepositoryFile,
    VerifyCommand,
    VerifyCommands,
    image_pattern,
    matches,
)
from coding_agent_core.task.runners import RunnerName


class Isolation(StrEnum):
    """How the workspace's commands are isolated from the agent when both run on one machine."""

    AUTO = "auto"
    """`namespaces` if the kernel allows it, otherwise `none` with a warning."""
    NAMESPACES = "namespaces"
    """User, mount and PID namespaces. It is an error if they are not available."""
    NONE = "none"
    """Only a cleaned environment, if the container itself is the isolation."""


class WorkspaceSettings(Section):
    """The workspace, in which the model's commands run."""

    socket: Path | None = None
    """Socket of a running workspace (the sidecar container); `None`: each task starts its own workspace."""
    gate: Path | None = None
    """Folder of a workspace container that serves one task after another (Docker Compose)."""
    isolation: Isolation = Isolation.AUTO
    """How commands are isolated from the agent on one machine."""
    readable: tuple[Path, ...] = ()
    """For a workspace on the agent's machine: folders outside the system's that commands can read, such as a
    toolchain below a home folder. They cannot be below `/tmp`, because each workspace has its own."""
    command_timeout: float = Field(default=300.0, gt=0, le=86_400)
    """Time limit of one command in seconds, unless the model asks for less."""


class Signing(StrEnum):
    """Who signs the commits."""

    KEY = "key"
    """The agent, if it has a `signing_key`."""
    GITHUB = "github"
    """GitHub. The agent does not push, but asks GitHub to make the commits."""


class Commits(Section):
    """Author and signature of the commits."""

    sign: Signing = Signing.KEY
    """Who signs the commits: `key` is the agent with its `signing_key`, if there is one. `github` is GitHub,
    which makes the commits in the name of the token's account and shows them as verified. Then a change
    cannot contain executable files, links or merges (docs/decisions/0034)."""

    name: str = ""
    """Name of the author; empty: the name of the forge's account."""
    email: str = ""
    """E-mail address of the author; empty: the address by which the forge finds its account (GitHub: its
    private address, GitLab: its commit address). On GitHub, take an address of the agent's own account.
    Otherwise its commits are not recognized as its own, and a review comment can go unanswered if another run
    changes the same lines first."""
    signing_key: Path | None = None
    """File with an SSH private key without a passphrase, as `ssh-keygen -t ed25519` writes it. Commits are
    signed with this key, and the forge's account must know its public key. `None`: commits are not signed."""

    @model_validator(mode="after")
    def _has_one_signer(self) -> Commits:
        given = [name for name in ("name", "email", "signing_key") if getattr(self, name)]
        if self.sign is Signing.GITHUB and given:
            raise ValueError(
                f"{', '.join(given)} cannot be combined with `sign: github`, where author and signature are "
                "GitHub's decision: remove it, or use `sign: key`"
            )
        return self

    @property
    def other_secrets(self) -> SecretSettings:
        return SecretSettings(files=(self.signing_key,) if self.signing_key is not None else ())


class Consumer(Section):
    """How attempts work on tasks."""

    runner: RunnerName = RunnerName.BUILTIN
    """The coding agent that does the work. All but `builtin` are programs in the workspace's image."""
    runners: dict[str, RunnerName] = Field(default_factory=dict)
    """Coding agents of single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""
    command: tuple[str, ...] = ()
    """For `runner: command`: a program and its arguments. It gets the prompt on its standard input."""
    concurrency: int = Field(default=1, gt=0, le=1000)
    """Number of tasks at the same time in one process."""
    max_attempts: int = Field(default=3, gt=0, le=20)
    """Maximum number of attempts of one task, not counting attempts that the cluster disrupted."""
    timeout_seconds: int = Field(default=3600, gt=0, le=604_800)
    """Seconds of wall-clock time for one attempt. This limit and `max_attempts` are the defaults of an
    AgentTask's fields, whose largest values are the same."""
    checkpoint_interval: Duration = 600.0
    """Seconds between two pushes of unfinished work, so that a killed attempt does not lose it; 0: never."""
    branch_prefix: str = Field(default="coding-agent/", min_length=1)
    """Prefix of the name of every branch for an issue. For an issue, the agent pushes to no other branch."""
    commits: Commits = Commits()
    workspace: WorkspaceSettings = WorkspaceSettings()

    @model_validator(mode="after")
    def _has_a_command(self) -> Consumer:
        if RunnerName.COMMAND in (self.runner, *self.runners.values()) and not self.command:
            raise ValueError("`command` is empty: `runner: command` needs a program and its arguments")
        return self

    @property
    def other_secrets(self) -> SecretSettings:
        return SecretSettings.of(secrets_in_command(self.command))


ImagePattern = Annotated[str, AfterValidator(image_pattern)]
"""An image with its registry; `*` stands for any characters but `/`, and not in the host."""
_Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]


class ServiceResources(Section):
    """Resources of each service's container."""

    cpu: _Quantity = "100m"
    """CPU that the scheduler reserves; there is no limit."""
    memory: _Quantity = "512Mi"
    """Memory that is reserved, and the most that the service may use."""
    storage: _Quantity = "2Gi"
    """Size of the folders to which the service can write."""


class RepositoryEnvironment(Section):
    """What a repository's `.coding-agent.yaml` may ask for. By default, only commands."""

    setup: bool = True
    """Whether its `setup` commands run in the workspace before the agent starts. They can do what the model's
    commands can do, each for at most `consumer.workspace.command_timeout` seconds."""
    verify: bool = True
    """Whether its `verify` commands replace those of the setting `verify.commands`."""
    runners: tuple[RunnerName, ...] = ()
    """Coding agents that the repository may choose."""
    images: tuple[ImagePattern, ...] = ()
    """Images that the repository may choose for the workspace, with their registry, for example
    `registry.example.com/team/*`. A `*` stands for any characters but `/`. Without a tag, every tag and
    digest is allowed; with a tag, no digest."""
    service_images: tuple[ImagePattern, ...] = ()
    """Images that the repository may run as services next to the workspace, written as in `images`."""
    service_resources: ServiceResources = ServiceResources()

    def refusal(self, file: RepositoryFile, presets: Collection[str]) -> str | None:
        """Return why a file is refused, as a sentence; `None` if everything that it asks for is allowed.

        Args:
            presets: the names in `egress.presets`.
        """
        if file.setup and not self.setup:
            return _not_allowed("setup", "commands are not run here", "repository_environment.setup")
        if file.verify is not None and not self.verify:
            return _not_allowed("verify", "it is not used here", "repository_environment.verify")
        if file.runner is not None and file.runner not in self.runners:
            return _not_allowed("runner", f"{file.runner} is not allowed", "repository_environment.runners")
        return self.pod_refusal(file.pod, presets)

    def pod_refusal(self, environment: Environment, presets: Collection[str]) -> str | None:
        """Return the same for an environment, because the operator does not trust an attempt's request."""
        image = environment.image
        if image is not None and not any(matches(image, pattern) for pattern in self.images):
            return _not_allowed("image", f"{image} is not allowed", "repository_environment.images")
        for service in environment.services:
            if not any(matches(service.image, pattern) for pattern in self.service_images):
                field = f"services.{service.name}.image"
                setting = "repository_environment.service_images"
                return _not_allowed(field, f"{service.image} is not allowed", setting)
        for name in environment.egress:
            if name not in presets:
                return _not_allowed("egress", f"there is no preset {name!r}", "egress.presets")
        return None


def _not_allowed(field: str, problem: str, setting: str) -> str:
    return (
        f"`{ENVIRONMENT_FILE}`, `{field}`: {problem}. An administrator can allow it in "
        f"`{setting}`; otherwise remove it from the file."
    )


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
