"""Settings of attempts: their limits, their workspace, and the settings of the person they are for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from coding_agent_core.secrets import SecretSettings
from coding_agent_core.settings.section import SecretField, Section


class Isolation(StrEnum):
    """What stands between the workspace's commands and the agent when both run on one machine."""

    AUTO = "auto"
    """`namespaces` where the kernel lets us, else `none` with a warning."""
    NAMESPACES = "namespaces"
    """Own user, mount and PID namespaces; refuses to work without."""
    NONE = "none"
    """Nothing but a scrubbed environment: for a container that is the isolation itself."""


class Workspace(Section):
    """Where the model's commands run."""

    socket: Path | None = None
    """Socket of a workspace that runs already (the sidecar container); `None`: one is started per task."""
    door: Path | None = None
    """Folder of a workspace container that serves task after task, one at a time (docker compose)."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds in which a workspace that runs already must answer at first."""
    isolation: Isolation = Isolation.AUTO
    """What separates commands from the agent where both run on one machine."""
    base_dir: Path | None = None
    """Where workspaces are made; `None`: the system's temporary folder."""
    command_timeout: float = Field(default=300.0, gt=0)
    """Seconds for one command, unless the model asks for less."""
    output_limit: int = Field(default=20_000, gt=0)
    """Characters of one command's output that the model sees: its head and tail."""


class Consumer(Section):
    """Attempts at tasks."""

    concurrency: int = Field(default=1, gt=0)
    """Tasks at a time in one process."""
    max_attempts: int = Field(default=3, gt=0)
    """Attempts of one task at most; those that the cluster disrupted do not count."""
    timeout_seconds: int = Field(default=3600, gt=0)
    """Wall clock of one attempt."""
    checkpoint_interval: float = Field(default=600.0, ge=0)
    """Seconds between two pushes of unfinished work, which a killed attempt would lose; 0: none."""
    retry_delay: float = Field(default=30.0, ge=0)
    """Seconds before the second attempt; doubled for each further one, capped at `retry_delay_max`."""
    retry_delay_max: float = Field(default=600.0, ge=0)
    """Seconds."""
    cancel_check_interval: float = Field(default=30.0, gt=0)
    """Seconds between two looks at the item's labels while a task runs: none of the flow's left, it stops."""
    max_tool_errors: int = Field(default=3, gt=0)
    """Consecutive errors of one tool that end the attempt."""
    max_malformed_answers: int = Field(default=5, gt=0)
    """Malformed model answers in a row that end the attempt."""
    branch_prefix: str = "coding-agent/"
    """Begins the name of every branch that is pushed."""
    commit_name: str = "coding agent"
    """Author of the commits."""
    commit_email: str = "coding-agent@localhost"
    """E-mail address of the commits' author."""
    workspace: Workspace = Workspace()


class UserConfigApi(Section):
    """Per-user settings (requirement S22)."""

    enabled: bool = False
    """Ask the service for the settings of the person who applied the label."""
    url: str = "http://user-config-api:8080"
    """Base URL of the service."""
    api_key: SecretField = SecretSettings()
    """Sent as Bearer token."""
    timeout: float = Field(default=5.0, gt=0)
    """Seconds; after that the defaults are used, with a warning."""
