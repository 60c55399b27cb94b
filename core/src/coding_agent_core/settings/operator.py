"""Settings of the operator and of the reporter."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.settings.section import (
    YEAR_S,
    Count,
    Interval,
    Section,
    WholeSeconds,
    for_repository,
)
from coding_agent_core.task.usage import MONEY, NULLS, TOKENS, Allowance

EVERYWHERE = "*"
"""Stands for every namespace of the cluster, instead of names."""
Served = Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)$")]
"""The name of a namespace (RFC 1123 label), or `EVERYWHERE`."""


class Limits(Section):
    """How many tasks may run at the same time."""

    global_: Count = Field(default=20, alias="global")
    """Limit for a namespace; 0 starts nothing."""
    per_repository: Count = 5
    """Limit for each repository."""
    overrides: dict[str, Count] = Field(default_factory=dict)
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
    """When the operator gives up on a task or a pod, and how long it keeps what ended.

    Times are in seconds."""

    max_disruptions: int = Field(default=10, ge=0, le=40)
    """How many attempts the cluster may disrupt before the operator gives up on the task. Such attempts do
    not count."""
    unschedulable_after: Interval = 900.0
    """Time after which the operator gives up on a pod that cannot be scheduled or created, or whose Secret is
    missing."""
    keep_finished: float = Field(default=7 * 86_400.0, ge=4 * 86_400, le=YEAR_S, allow_inf_nan=False)
    """Time after which an ended task is deleted. It is at least 4 days, because GitHub can redeliver for 3
    days, and a redelivery whose task is gone creates a new one. A task whose item does not show the outcome
    yet is kept a day longer."""
    keep_jobs: WholeSeconds = 86_400
    """Time after which a finished Job and its pod's logs are deleted."""


_REQUEST_S = 10.0
"""The longest time for one request to the API server: a busy one answers in less."""


class Operator(Section):
    """How the operator runs."""

    namespace: str | None = None
    """Namespace of the AgentTasks, for all programs; `None`: `POD_NAMESPACE`. Outside of a pod, receiver and
    poller take that of the kubeconfig, and operator and reporter `default`."""
    namespaces: tuple[Served, ...] = ()
    """Namespaces that this operator serves: names, or `["*"]`; empty: only `namespace`."""
    lease_duration: int = Field(default=30, ge=3, le=3600)
    """Seconds after which another replica of operator or reporter takes over from a silent one, and between
    two lists of all objects, which bring what a watch has lost (rarer if a list takes long). One request to
    the API server may take a third of it, so that none can arrive after another replica took over. 120 is
    good for an operator of hundreds of namespaces, each of which costs such requests."""
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
    def request_limit(self) -> float:
        """Maximum number of seconds for one request. The Lease's fence leaves a third of the Lease for it."""
        return min(_REQUEST_S, self.lease_duration / 3)

    @property
    def everywhere(self) -> bool:
        """Whether every namespace of the cluster is served."""
        return EVERYWHERE in self.namespaces


_REQUESTS_PER_SECOND = 20 / 3
"""All requests of one account to a forge. GitHub asks for no more than 900 points a minute, of which a change
costs five; at the usual share of 3/4, 5 requests a second keep that with the mix that an item needs."""


class Reporter(Section):
    """Shows AgentTasks on their items with labels and one comment."""

    forge_share: float = Field(default=0.75, gt=0, le=1000)
    """Share of a forge's documented limits for an account that the reporter uses. GitHub: 5,000 requests
    an hour, 180 changes and 80 comments a minute, 500 comments an hour; GitLab.com: 60 comments a minute;
    your own GitLab: 300. The rest is for attempts, polls, and other programs with the same account. 0.75
    also means at most 5 requests a second, on every forge. Above 1 is right for an installation with
    higher limits than documented, or none."""

    @property
    def requests_per_second(self) -> float:
        """The average rate of all requests to one forge."""
        return _REQUESTS_PER_SECOND * self.forge_share
