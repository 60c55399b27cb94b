"""Settings of the operator and of the reporter."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, Field, field_validator

from coding_agent_core.settings.job import JobTemplate
from coding_agent_core.settings.section import Section

EVERYWHERE = "*"
"""In place of names: every namespace of the cluster."""
Served = Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$")]
"""Name of a namespace (RFC 1123 label), or `EVERYWHERE`."""


class Limits(Section):
    """How many tasks run at a time (requirement B7); exact."""

    global_: int = Field(default=20, ge=0, validation_alias=AliasChoices("global", "global_"))
    """In a whole namespace; 0 starts nothing."""
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
    namespaces: tuple[Served, ...] = ()
    """Namespaces that this operator serves, each by itself: names, or `["*"]`; empty: `namespace` alone."""
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

    @field_validator("namespaces")
    @classmethod
    def _each_once(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if EVERYWHERE in given and len(given) > 1:
            raise ValueError(f'"{EVERYWHERE}" stands for all namespaces: give it alone, or names alone')
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"each namespace is named once; more than once here: {', '.join(twice)}")
        return given

    @property
    def everywhere(self) -> bool:
        """Every namespace of the cluster is served."""
        return EVERYWHERE in self.namespaces

    @property
    def request_limit(self) -> float:
        """Seconds for one request: the Lease's fence leaves a third of it for those that are under way."""
        return min(self.request_timeout, self.lease_duration / 3)


class Reporter(Section):
    """Mirrors AgentTasks to labels and one comment; times in seconds. Rates are for each forge host."""

    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside of the pod
    """Address to listen on."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """`/livez`, `/readyz` and `/metrics`."""
    requests_per_second: float = Field(default=2.0, gt=0)
    """Requests to a forge, on average; more than `burst` never come at once."""
    burst: int = Field(default=10, gt=0)
    """Requests that may come at once after a quiet time."""
    writes_per_minute: float = Field(default=60.0, gt=0)
    """Requests that change something. GitHub's secondary limit is 80 a minute."""
    requests_per_hour: int = Field(default=4000, gt=0)
    """GitHub gives a token 5,000, which attempts and polls share."""
    keep_remaining: int = Field(default=200, ge=0)
    """Where the forge tells how many requests are left: those that are left to attempts and polls."""
    workers: int = Field(default=4, gt=0)
    """Items of one forge that are written at a time."""
    grace: float = Field(default=60.0, ge=0)
    """Labels that say otherwise than the task for this long correct the task: cancel, or a new run."""
    check_interval: float = Field(default=300.0, gt=0)
    """Between two looks at the item of an active task although nothing happened; longer if there are many."""
    position_interval: float = Field(default=60.0, gt=0)
    """Between two edits of a comment that only move the place in the queue."""
    resync_interval: float = Field(default=30.0, gt=0)
    """Between two complete looks at the cluster; a watch that is behind for two of them is dead."""
    retry_first: float = Field(default=2.0, gt=0)
    """Before the second try while a forge does not answer; doubled for each further one."""
    retry_max: float = Field(default=120.0, gt=0)
    """Longest wait between two tries."""
    tell_after: float = Field(default=30.0, ge=0)
    """A forge that is away for this long is told on each task that waits for it: condition and Event."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Seconds for one request to the API server."""
