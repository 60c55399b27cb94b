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
    """Host name of the broker."""
    port: int = Field(default=5672, gt=0, le=65535)
    """Its AMQP port."""
    user: str = "guest"
    """User of the virtual host `/`."""
    password: SecretField = SecretSettings()
    """Empty: `guest`, the broker's own default for local connections."""
    queue: str = Field(default="coding_agent_tasks", min_length=1)
    """Durable queue of the tasks; the queue with `.dead` after its name keeps those that were given up."""
    heartbeat: int = Field(default=60, gt=0)
    """Seconds; a dead connection is noticed after about two of them."""
    publish_timeout: float = Field(default=5.0, gt=0)
    """Seconds in which the broker must confirm a task."""


class KubernetesQueue(Section):
    """Tasks as AgentTasks in a namespace."""

    namespace: str | None = None
    """Namespace of the AgentTasks; `None`: `POD_NAMESPACE`, else that of the kubeconfig."""


class Engine(StrEnum):
    """Who decides in Kubernetes when an attempt starts."""

    NATIVE = "native"
    """The operator, by the section `limits`, fair share and priorities."""
    KUEUE = "kueue"
    """Kueue (https://kueue.sigs.k8s.io), by its quotas; the operator only keeps one running task per item."""


class Kueue(Section):
    """The LocalQueues of attempts, in the namespace of the AgentTasks."""

    local_queue: str = Field(default="coding-agent", min_length=1, max_length=63)
    """LocalQueue of all other repositories."""
    repositories: dict[str, str] = Field(default_factory=dict)
    """LocalQueues of single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""

    def of(self, host: str, repository: str) -> str:
        """The queue of one repository."""
        known = {name.lower(): queue for name, queue in self.repositories.items()}
        path = repository.lower()
        return known.get(f"{host.lower()}/{path}", known.get(path, self.local_queue))


class Queue(Section):
    """Where tasks wait."""

    backend: Backend | None = None
    """`None`: RabbitMQ where `use_rabbitmq` is set, else memory."""
    kubernetes: KubernetesQueue = KubernetesQueue()
    engine: Engine = Engine.NATIVE
    """For `backend: kubernetes`: who decides when an attempt starts."""
    kueue: Kueue = Kueue()
    """For `engine: kueue`."""
