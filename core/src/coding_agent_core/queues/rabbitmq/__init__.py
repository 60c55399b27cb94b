"""The queue on RabbitMQ, with pika in a thread of its own (docs/decisions/0005).

`messages`: what is in which queue; `connection`: pika as coroutines; `publisher`: the sink, and the notices
that it publishes; `consumer`: the source of tasks.
"""

from coding_agent_core.queues.rabbitmq.consumer import RabbitMQSource
from coding_agent_core.queues.rabbitmq.publisher import RabbitMQNotices, RabbitMQSink

__all__ = ["RabbitMQNotices", "RabbitMQSink", "RabbitMQSource"]
