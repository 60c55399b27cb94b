"""The queue that the settings select."""

from __future__ import annotations

import os

from coding_agent_core.errors import SettingsError
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.queues.protocol import TaskSink, TaskSource
from coding_agent_core.settings import Settings
from coding_agent_core.settings.model import Backend


def connect_sink(settings: Settings, *, memory: MemoryQueue | None = None) -> TaskSink:
    """Where to put tasks. Nothing is connected before the first call.

    Args:
        memory: the process's in-memory queue, shared with its source.

    Raises:
        SettingsError: this program cannot use the backend.
    """
    match settings.backend:
        case Backend.MEMORY:
            return _shared(memory)
        case Backend.RABBITMQ:
            # Imported here: pika comes with the extra `rabbitmq`, which not every program installs.
            from coding_agent_core.queues.rabbitmq import RabbitMQSink  # noqa: PLC0415

            return RabbitMQSink(settings.rabbitmq)
        case Backend.KUBERNETES:
            # As above: the client comes with the extra `kubernetes`.
            from coding_agent_core.kubernetes.task_sink import KubernetesSink  # noqa: PLC0415
            from coding_agent_core.kubernetes.transport import Access  # noqa: PLC0415

            namespace = settings.queue.kubernetes.namespace or os.environ.get("POD_NAMESPACE") or None
            return KubernetesSink(Access.find(), namespace, settings.consumer)


def connect_source(settings: Settings, *, memory: MemoryQueue | None = None) -> TaskSource:
    """Where to take tasks from; as `connect_sink`.

    Raises:
        SettingsError: this program cannot use the backend.
    """
    match settings.backend:
        case Backend.MEMORY:
            return _shared(memory)
        case Backend.RABBITMQ:
            from coding_agent_core.queues.rabbitmq import RabbitMQSource  # noqa: PLC0415

            return RabbitMQSource(settings.rabbitmq, settings.hosts)
        case Backend.KUBERNETES:
            raise SettingsError(
                "queue.backend is `kubernetes`: there the operator starts a Job for each attempt, and no "
                "consumer takes tasks. Run `main.py --mode webhook` or `--mode producer` here, and the "
                "operator beside it; or set queue.backend to `rabbitmq`."
            )


def _shared(memory: MemoryQueue | None) -> MemoryQueue:
    if memory is None:
        raise SettingsError(
            "queue.backend is `memory`, and an in-memory queue exists in one process only: run `main.py` "
            "without `--mode` (or `--mode webhook`), or set use_rabbitmq: true to run two processes."
        )
    return memory
