"""Settings of the reporter: how quickly it may write to a forge, and when labels correct a task."""

from __future__ import annotations

from pydantic import Field

from coding_agent_core.settings.section import Section


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
