"""Settings of polling and of the queues."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from coding_agent_core.secrets import SecretSettings
from coding_agent_core.settings.section import SecretField, Section


class Backend(StrEnum):
    """Where tasks wait."""

    MEMORY = "memory"
    RABBITMQ = "rabbitmq"
    KUBERNETES = "kubernetes"


class Scheduling(Section):
    """Polling."""

    interval: int = Field(default=300, gt=0)
    """Seconds between two polls."""


class RabbitMQ(Section):
    """The broker."""

    host: str = "localhost"
    port: int = Field(default=5672, gt=0, le=65535)
    user: str = "guest"
    password: SecretField = SecretSettings()
    """Empty: `guest`, the broker's own default for local connections."""
    queue: str = Field(default="coding_agent_tasks", min_length=1)
    heartbeat: int = Field(default=60, gt=0)
    """Seconds; a dead connection is noticed after about two of them."""
    publish_timeout: float = Field(default=5.0, gt=0)
    """Seconds in which the broker must confirm a task."""


class KubernetesQueue(Section):
    """AgentTasks in a namespace."""

    namespace: str | None = None


class Queue(Section):
    """Which queue."""

    backend: Backend | None = None
    """`None`: RabbitMQ where `use_rabbitmq` is set, else memory."""
    kubernetes: KubernetesQueue = KubernetesQueue()
