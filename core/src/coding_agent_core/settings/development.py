"""Clocks and addresses of the programs that only tests and development change. Nobody has to judge them.

The section is neither on the page of settings nor among the chart's values, and it may change with every
commit. An error about a removed setting names its entry here, if there is one.
"""

from __future__ import annotations

from pydantic import Field

from coding_agent_core.settings.section import Duration, Interval, Section


class Development(Section):
    """What tests shorten, because they cannot wait for the times of real use. Times are in seconds."""

    http_host: str | None = None
    """Address of metrics and probes in place of the program's own: tests listen on loopback."""
    http_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of metrics and probes in place of the program's own: tests run several programs on one machine."""
    relist_interval: Interval | None = None
    """Between two lists of all objects, in place of `operator.lease_duration`."""
    keep_finished: Duration | None = None
    """For which ended tasks are kept, in place of `operator.policy.keep_finished`, which is days."""
    sweep_interval: Interval = 300.0
    """Between two searches for ended tasks to delete. They are kept for days, so minutes do not matter."""
    position_interval: Interval = 10.0
    """Between two updates of the queue positions in the status of AgentTasks: each one is a write for each
    waiting task."""
    pod_check_interval: Interval = 15.0
    """Between two checks of the pods of a Job that is not ready yet. Nobody waits for the answer for less
    than the minutes after which the operator gives up on a pod."""
    retry_delay: Duration = 30.0
    """Upper bound of the delay before the second attempt. It doubles with each further failure: a fault of a
    model or a forge is often over after half a minute. The operator subtracts a random part, up to half."""
    retry_delay_max: Duration | None = None
    """Upper bound of any delay before an attempt, including one that a model or a forge asks for; `None`: the
    program's own, and a day for a delay that was asked for."""
    check_interval: Interval = 300.0
    """Between two checks of an active task's item if nothing changes, for events that no webhook brought.
    More often would use up a forge's limits."""
    comment_interval: Interval = 60.0
    """Between two edits of a comment that only change the queue position. Each one counts against the forge's
    limit of writes."""
    grace: Duration = 60.0
    """For which labels may contradict their task before it is corrected: cancelled, or a new run starts.
    People who correct a wrong label do so within a minute."""
    forge_retry: Interval = 2.0
    """Before the first retry while a forge does not answer. It doubles with each further retry."""
    forge_retry_max: Interval = 120.0
    """Longest delay between two retries at a forge, so that an outage of hours is noticed as over in two
    minutes. What the forge refuses is retried more and more rarely, at last once an hour."""
    outage_shown_after: Duration = 30.0
    """After which tasks that wait for a silent forge get a condition and an Event: a forge's restart takes
    less, and is no news."""
    forge_limits: bool = True
    """Whether the reporter keeps the limits that a forge documents, and its own; a sandbox has none."""
    webhook_timeout: Interval = 4.0
    """For an event to wait for its turn in the receiver, and then for all tries to store it in Kubernetes.
    Afterwards the receiver answers 503: forges wait for 10 seconds, Gitea for 5. Tests give more, because
    their machine may stall for some seconds."""
    publish_timeout: Interval | None = None
    """For RabbitMQ to confirm an event; `None`: the program's own. Tests give more for the same reason."""
    cancel_check_interval: Interval = 30.0
    """Without Kubernetes: between two checks of the labels of an item that is worked on; a task stops when
    the item has none of ours. Each check costs a request."""

    def address(self, usual: tuple[str, int]) -> tuple[str, int]:
        """Return the address and port to listen on, of which `usual` are the program's own."""
        host, port = usual
        return self.http_host or host, port if self.http_port is None else self.http_port
