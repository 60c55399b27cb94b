"""Settings of the operator and of the reporter."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.section import Section, for_repository
from coding_agent_core.task.usage import MONEY, NULLS, TOKENS, Allowance

EVERYWHERE = "*"
"""Stands for every namespace of the cluster, instead of names."""
Served = Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$")]
"""The name of a namespace (RFC 1123 label), or `EVERYWHERE`."""


class Limits(Section):
    """How many tasks may run at the same time."""

    global_: int = Field(default=20, ge=0, alias="global")
    """Limit for a namespace; 0 starts nothing."""
    per_repository: int = Field(default=5, ge=0)
    """Limit for each repository."""
    overrides: dict[str, int] = Field(default_factory=dict)
    """Limits for single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""

    def of(self, host: str, repository: str) -> int:
        limit = for_repository(self.overrides, host, repository)
        return self.per_repository if limit is None else limit


def _all(form: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of budgets that all have one form; currencies are compared when they load."""
    one = {"anyOf": [form, NULLS, {"type": "null"}]}
    properties = dict.fromkeys(("task", "repository", "namespace"), one)
    return {"properties": {**properties, "repositories": {"additionalProperties": one}}}


class Budgets(Section):
    """How much may be spent on the model: `task` for all attempts of a task together, `repository` for each
    repository and day (UTC), `namespace` for all tasks of a namespace and month (UTC). All are given in one
    unit: money of one currency, or tokens. Without a budget, there is no limit."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [_all(MONEY), _all(TOKENS)]})

    task: Allowance | None = None
    """Budget for all attempts of a task together; an AgentTask's `spec.budget` wins. `None`: no limit."""
    repository: Allowance | None = None
    """Budget for each repository and day (UTC). Like the budgets below, it needs AgentTasks."""
    namespace: Allowance | None = None
    """Budget for a namespace and month (UTC)."""
    repositories: dict[str, Allowance] = Field(default_factory=dict)
    """Budgets of single repositories for a day, by `owner/repo` or `host/owner/repo`; letter case is
    ignored."""

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
        """Return the budget of one repository and day."""
        own = for_repository(self.repositories, host, repository)
        return self.repository if own is None else own


class Policy(Section):
    """When the operator retries an attempt and when it gives up on a pod. Times are in seconds."""

    backoff_base: float = Field(default=30.0, ge=0)
    """Upper bound of the first delay. It doubles with each further failure. A random part of it, up to half,
    is subtracted."""
    backoff_max: float = Field(default=900.0, ge=0)
    """Upper bound of any delay, including one that a model or a forge asks for."""
    max_disruptions: int = Field(default=10, ge=0, le=40)
    """How many attempts the cluster may disrupt before the operator gives up on the task. Such attempts do
    not count."""
    unschedulable_after: float = Field(default=900.0, gt=0)
    """Time after which the operator gives up on a pod that cannot be scheduled or created, or whose Secret is
    missing."""
    image_after: float = Field(default=300.0, gt=0)
    """Time after which the operator gives up on a pod whose image cannot be pulled or whose containers cannot
    be started."""
    config_after: float = Field(default=120.0, gt=0)
    """Time after which the operator gives up on a pod whose configuration the kubelet refuses, because its
    image cannot exist or a ConfigMap is missing."""
    pod_check_interval: float = Field(default=15.0, gt=0)
    """Time between two checks of the pods of a Job that is not ready yet."""
    aging: float = Field(default=60.0, gt=0)
    """Waiting this long raises a task's priority by one."""
    keep_finished: float = Field(default=7 * 86400.0, ge=0)
    """Time after which an ended task is deleted. It must be longer than a forge can redeliver (GitHub: 3
    days). A task whose item does not show the outcome yet is kept a day longer."""
    keep_jobs: int = Field(default=86400, ge=0)
    """Time after which a finished Job and its pod's logs are deleted."""


class Operator(Section):
    """How the operator runs."""

    namespace: str | None = None
    """Namespace of the AgentTasks; `None`: `POD_NAMESPACE`, or otherwise `default`."""
    namespaces: tuple[Served, ...] = ()
    """Namespaces that this operator serves: names, or `["*"]`; empty: only `namespace`."""
    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside of the pod
    """Address to listen on."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of `/livez`, `/readyz` and `/metrics`."""
    relist_interval: float = Field(default=30.0, gt=0)
    """Seconds between two lists of all objects; a watch that lags behind two of them counts as dead."""
    sweep_interval: float = Field(default=300.0, gt=0)
    """Seconds between two searches for ended tasks to delete."""
    position_interval: float = Field(default=10.0, gt=0)
    """Seconds between two updates of queue positions."""
    lease_duration: int = Field(default=30, ge=3)
    """Seconds after which another replica of operator or reporter takes over from a silent one."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Time limit of one request to the API server in seconds, at most a third of `lease_duration`, so that no
    request can arrive after another replica took over."""
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
        """The namespace that is used: the setting, or this pod's namespace, or `default`."""
        return self.namespace or os.environ.get("POD_NAMESPACE") or "default"

    @property
    def everywhere(self) -> bool:
        """Whether every namespace of the cluster is served."""
        return EVERYWHERE in self.namespaces

    @property
    def request_limit(self) -> float:
        """Maximum number of seconds for one request. The Lease's fence leaves a third of the Lease for it."""
        return min(self.request_timeout, self.lease_duration / 3)


class Reporter(Section):
    """Shows AgentTasks on their items with labels and one comment. Times are in seconds. Rates are for each
    forge host."""

    http_host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside of the pod
    """Address to listen on."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of `/livez`, `/readyz` and `/metrics`."""
    requests_per_second: float = Field(default=5.0, gt=0)
    """Average rate of requests to a forge; never more than `burst` at once."""
    burst: int = Field(default=10, gt=0)
    """Maximum number of requests at once after a quiet time."""
    writes_per_minute: float | None = Field(default=None, gt=0)
    """Requests per minute that change something, after a burst. `None`: three quarters of the limit that the
    forge documents (GitHub: 180), or no limit (GitLab). The rest is for attempts and polls."""
    creates_per_minute: float | None = Field(default=None, gt=0)
    """Requests per minute that create a comment. `None`: three quarters of the limit that the forge documents
    (GitHub: 80, GitLab.com: 60, your own GitLab: 300)."""
    creates_per_hour: float | None = Field(default=None, gt=0)
    """Comments created in any hour. `None`: three quarters of the limit that the forge documents (GitHub:
    500), or no limit (GitLab)."""
    requests_per_hour: int | None = Field(default=None, gt=0)
    """All requests in an hour. `None`: three quarters of the limit that GitHub's answers state (5,000 until
    the first answer), or no limit (GitLab)."""
    keep_remaining: int = Field(default=200, ge=0)
    """Requests that the reporter leaves to attempts and polls, if the forge says how many remain."""
    workers: int = Field(default=4, gt=0)
    """Number of items of one forge that are updated at the same time."""
    grace: float = Field(default=60.0, ge=0)
    """If labels contradict the task for this long, the task is corrected: cancelled, or a new run starts."""
    check_interval: float = Field(default=300.0, gt=0)
    """Time between two checks of an active task's item if nothing changes; longer if there are many tasks."""
    position_interval: float = Field(default=60.0, gt=0)
    """Time between two edits of a comment that only change the queue position."""
    relist_interval: float = Field(default=30.0, gt=0)
    """Time between two lists of all objects; a watch that lags behind two of them counts as dead."""
    retry_first: float = Field(default=2.0, gt=0)
    """Delay before the first retry while a forge does not answer. It doubles with each further retry."""
    retry_max: float = Field(default=120.0, gt=0)
    """Longest delay between two retries. What the forge refuses is retried more and more rarely, at last once
    an hour, and at once when the task changes."""
    outage_shown_after: float = Field(default=30.0, ge=0)
    """When a forge has not answered for this long, tasks that wait for it get a condition and an Event."""
    request_timeout: float = Field(default=10.0, gt=0)
    """Seconds for one request to the API server."""
