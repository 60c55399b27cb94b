"""Settings of the operator and of the reporter."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from coding_agent_core.settings.job import JobTemplate
from coding_agent_core.settings.section import Section, for_repository
from coding_agent_core.usage import Allowance

EVERYWHERE = "*"
"""Instead of names: every namespace of the cluster."""
Served = Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$")]
"""Name of a namespace (RFC 1123 label), or `EVERYWHERE`."""


class Limits(Section):
    """How many tasks run at a time; never exceeded."""

    global_: int = Field(default=20, ge=0, alias="global")
    """Limit for a namespace; 0 starts nothing."""
    per_repository: int = Field(default=5, ge=0)
    """Limit for each repository."""
    overrides: dict[str, int] = Field(default_factory=dict)
    """Limits for single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""

    def of(self, host: str, repository: str) -> int:
        limit = for_repository(self.overrides, host, repository)
        return self.per_repository if limit is None else limit


class Budgets(Section):
    """What may be spent on the model: `task` for all attempts of a task together, `repository` for each
    repository and day (UTC), `namespace` for all tasks of a namespace and month (UTC). All are given in one
    unit: money of one currency, or tokens. Without a budget nothing is limited."""

    task: Allowance | None = None
    """For all attempts of a task together; an AgentTask's `spec.budget` wins. `None`: no limit."""
    repository: Allowance | None = None
    """For each repository and day (UTC). Only where tasks are AgentTasks, as those below."""
    namespace: Allowance | None = None
    """For a namespace and month (UTC)."""
    repositories: dict[str, Allowance] = Field(default_factory=dict)
    """For single repositories and a day, by `owner/repo` or `host/owner/repo`; letter case is ignored."""

    @model_validator(mode="after")
    def _comparable(self) -> Budgets:
        given = [self.task, self.repository, self.namespace, *self.repositories.values()]
        units = sorted({budget.unit for budget in given if budget is not None})
        if len(units) > 1:
            raise ValueError(
                f"budgets are given in {' and in '.join(units)}: give all in one currency, or all in tokens"
            )
        if self.shared and self.task is None:
            raise ValueError(
                "set `task` too: while a task runs, what it may spend is kept free of the other budgets"
            )
        return self

    @property
    def shared(self) -> bool:
        """Whether tasks share a budget."""
        return bool(self.repository or self.namespace or self.repositories)

    def of(self, host: str, repository: str) -> Allowance | None:
        """The budget of one repository and day."""
        own = for_repository(self.repositories, host, repository)
        return self.repository if own is None else own


class Policy(Section):
    """When an attempt is retried and when a pod is given up; times in seconds."""

    backoff_base: float = Field(default=30.0, ge=0)
    """Upper bound of the first delay; doubled for each further failure, minus up to a half by chance."""
    backoff_max: float = Field(default=900.0, ge=0)
    """Upper bound of any delay, also of one that a model or a forge asks for."""
    max_disruptions: int = Field(default=10, ge=0, le=40)
    """Most attempts that the cluster disrupts, which do not count, before the task is given up."""
    unschedulable_after: float = Field(default=900.0, gt=0)
    """A pod that cannot be scheduled or created, or whose Secret is missing, is given up after this."""
    image_after: float = Field(default=300.0, gt=0)
    """A pod whose image cannot be pulled, or whose containers cannot be started, is given up after this."""
    config_after: float = Field(default=120.0, gt=0)
    """A pod whose configuration the kubelet refuses is given up after this: an image that cannot exist, or a
    ConfigMap that is missing."""
    pod_check_interval: float = Field(default=15.0, gt=0)
    """Between two checks of the pods of a Job that is not ready yet."""
    aging: float = Field(default=60.0, gt=0)
    """Waiting this long raises a task's priority by one."""
    keep_finished: float = Field(default=7 * 86400.0, ge=0)
    """An ended task is deleted after this, which must be longer than a forge can redeliver (GitHub: 3 days).
    A task whose outcome is not shown on its item yet stays a day longer."""
    keep_jobs: int = Field(default=86400, ge=0)
    """A finished Job and its pod's logs are deleted after this."""


class Operator(Section):
    """How the operator runs."""

    namespace: str | None = None
    """Namespace of the AgentTasks; `None`: `POD_NAMESPACE`, else `default`."""
    namespaces: tuple[Served, ...] = ()
    """Namespaces that this operator serves: names, or `["*"]`; empty: only `namespace`."""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside of the pod
    """Address to listen on."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """`/livez`, `/readyz` and `/metrics`."""
    workers: int = Field(default=8, gt=0)
    """Number of tasks that are reconciled at a time."""
    relist_interval: float = Field(default=30.0, gt=0)
    """Seconds between two lists of all objects; a watch that lags behind two of them counts as dead."""
    sweep_interval: float = Field(default=300.0, gt=0)
    """Seconds between two searches for ended tasks to delete."""
    position_interval: float = Field(default=10.0, gt=0)
    """Seconds between two updates of queue positions."""
    lease_duration: int = Field(default=30, ge=3)
    """Seconds after which another replica takes over from a silent one."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Seconds for one request to the API server, at most a third of `lease_duration`, so that no request can
    arrive after another replica took over."""
    policy: Policy = Policy()
    job: JobTemplate = JobTemplate()

    @field_validator("namespaces")
    @classmethod
    def _each_once(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if EVERYWHERE in given and len(given) > 1:
            raise ValueError(f'"{EVERYWHERE}" stands for all namespaces: give either it or names, not both')
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(
                f"each namespace can be named only once; more than once here: {', '.join(twice)}"
            )
        return given

    @property
    def own_namespace(self) -> str:
        """The namespace in force: the setting, else this pod's, else `default`."""
        return self.namespace or os.environ.get("POD_NAMESPACE") or "default"

    @property
    def everywhere(self) -> bool:
        """Whether every namespace of the cluster is served."""
        return EVERYWHERE in self.namespaces

    @property
    def request_limit(self) -> float:
        """Seconds for one request; the Lease's fence leaves a third for requests in flight."""
        return min(self.request_timeout, self.lease_duration / 3)


class Reporter(Section):
    """Shows AgentTasks by labels and one comment; times in seconds. Rates are per forge host."""

    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside of the pod
    """Address to listen on."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """`/livez`, `/readyz` and `/metrics`."""
    requests_per_second: float = Field(default=5.0, gt=0)
    """Average rate of requests to a forge; never more than `burst` at once."""
    burst: int = Field(default=10, gt=0)
    """Most requests at once after a quiet time."""
    writes_per_minute: float | None = Field(default=None, gt=0)
    """Requests that change something, after a burst. `None`: three quarters of what the forge documents
    (GitHub: 180), no limit where it documents none (GitLab). The rest is for attempts and polls."""
    creates_per_minute: float | None = Field(default=None, gt=0)
    """Those of them that create a comment. `None`: three quarters of what the forge documents (GitHub: 80,
    GitLab.com: 60, your own GitLab: 300)."""
    creates_per_hour: float | None = Field(default=None, gt=0)
    """Comments that are created in any hour. `None`: three quarters of what the forge documents (GitHub:
    500), no limit for GitLab."""
    requests_per_hour: int | None = Field(default=None, gt=0)
    """All requests. `None`: three quarters of what the forge documents (GitHub: 5,000), no limit for
    GitLab."""
    keep_remaining: int = Field(default=200, ge=0)
    """Requests that are left to attempts and polls, where the forge says how many remain."""
    workers: int = Field(default=4, gt=0)
    """Number of items of one forge that are updated at a time."""
    grace: float = Field(default=60.0, ge=0)
    """Labels that contradict the task for this long correct the task: cancel it, or start a new run."""
    check_interval: float = Field(default=300.0, gt=0)
    """Between two checks of an active task's item without a change; longer if there are many tasks."""
    position_interval: float = Field(default=60.0, gt=0)
    """Between two edits of a comment that only change the queue position."""
    relist_interval: float = Field(default=30.0, gt=0)
    """Between two lists of all objects; a watch that lags behind two of them counts as dead."""
    retry_first: float = Field(default=2.0, gt=0)
    """Before the first retry while a forge does not answer; doubled for each further retry."""
    retry_max: float = Field(default=120.0, gt=0)
    """Longest delay between two retries."""
    outage_shown_after: float = Field(default=30.0, ge=0)
    """When a forge has not answered for this long, tasks that wait for it get a condition and an Event."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Seconds for one request to the API server."""
