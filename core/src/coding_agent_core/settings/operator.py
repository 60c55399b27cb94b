"""Settings of the operator: how much runs at a time, when to try again, and its own running."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from coding_agent_core.settings.job import JobTemplate
from coding_agent_core.settings.section import Section

__all__ = ["JobTemplate", "Limits", "Operator", "Policy"]


class Limits(Section):
    """How many tasks run at a time (requirement B7); exact."""

    global_: int = Field(default=20, ge=0, validation_alias=AliasChoices("global", "global_"))
    """In the whole namespace; 0 starts nothing."""
    per_repository: int = Field(
        default=5, ge=0, validation_alias=AliasChoices("per_repository", "perRepository")
    )
    """In one repository."""
    overrides: dict[str, int] = Field(default_factory=dict)
    """For single repositories, by `owner/repo` or `host/owner/repo`, whatever the letter case."""

    def of(self, host: str, repository: str) -> int:
        """The limit of one repository."""
        known = {name.lower(): limit for name, limit in self.overrides.items()}
        path = repository.lower()
        return known.get(f"{host.lower()}/{path}", known.get(path, self.per_repository))


class Policy(Section):
    """When an attempt is tried again and when a pod is given up; times in seconds."""

    backoff_base: float = Field(default=30.0, ge=0)
    """Upper bound of the first wait; doubled for each further failure (exponential, full jitter)."""
    backoff_max: float = Field(default=900.0, ge=0)
    """Upper bound of any wait, also of what a model or a forge asks for."""
    max_disruptions: int = Field(default=10, ge=0, le=40)
    """Attempts that the cluster disrupted and that do not count, before the task is given up."""
    unschedulable_after: float = Field(default=900.0, gt=0)
    """A pod that no node takes, or that cannot even be created, is given up after this."""
    image_after: float = Field(default=300.0, gt=0)
    """A pod whose image cannot be pulled is given up after this."""
    config_after: float = Field(default=120.0, gt=0)
    """A pod whose Secret or ConfigMap is missing is given up after this."""
    look_interval: float = Field(default=15.0, gt=0)
    """Between two looks at the pods of a Job that is not ready yet."""
    aging: float = Field(default=60.0, gt=0)
    """Waiting this long raises a task's priority by one."""
    keep_finished: float = Field(default=7 * 86400.0, ge=0)
    """A task that ended is deleted after this: longer than a forge can redeliver (GitHub: 3 days). One whose
    end is not on its issue yet stays a day longer."""
    keep_jobs: int = Field(default=86400, ge=0)
    """A finished Job and its pod's logs are deleted after this."""


class Operator(Section):
    """The operator's own running."""

    namespace: str | None = None
    """Where AgentTasks are; `None`: `POD_NAMESPACE`, else `default`."""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside of the pod
    """Address to listen on."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """`/livez`, `/readyz` and `/metrics`."""
    workers: int = Field(default=8, gt=0)
    """Tasks that are reconciled at a time."""
    resync_interval: float = Field(default=30.0, gt=0)
    """Seconds between two complete looks at the cluster; a watch that is behind for two of them is dead."""
    sweep_interval: float = Field(default=300.0, gt=0)
    """Seconds between two looks for ended tasks to delete."""
    position_interval: float = Field(default=10.0, gt=0)
    """Seconds between two updates of queue positions."""
    lease_duration: int = Field(default=30, ge=3)
    """Seconds after which another replica takes over from one that is silent."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Seconds for one request to the API server; a third of `lease_duration` at most, so that none can arrive
    when another replica acts."""
    policy: Policy = Policy()
    job: JobTemplate = JobTemplate()
