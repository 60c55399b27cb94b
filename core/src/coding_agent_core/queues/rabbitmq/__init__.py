"""The queue on RabbitMQ, with pika in a thread of its own (docs/decisions/0005).

`messages`: what is in which queue; `connection`: pika as coroutines; `publisher`: the sink; `consumer` and
`notices`: the sources of tasks and of notices.
"""

from coding_agent_core.queues.rabbitmq.consumer import RabbitMQSource
from coding_agent_core.queues.rabbitmq.notices import RabbitMQNotices
from coding_agent_core.queues.rabbitmq.publisher import RabbitMQSink

__all__ = ["RabbitMQNotices", "RabbitMQSink", "RabbitMQSource"]
