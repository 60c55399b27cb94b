"""The queue on RabbitMQ, with pika in a thread of its own (docs/decisions/0005).

`messages`: what is in which queue; `connection`: pika as coroutines; `publisher`: the sink; `sources`: those
of tasks and of notices; `consumer`: a claim, and the connection that it belongs to.
"""

from coding_agent_core.queues.rabbitmq.publisher import RabbitMQSink
from coding_agent_core.queues.rabbitmq.sources import RabbitMQNotices, RabbitMQSource

__all__ = ["RabbitMQNotices", "RabbitMQSink", "RabbitMQSource"]
