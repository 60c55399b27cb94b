"""The queue on RabbitMQ, with pika in a separate thread.

`messages` defines queues and messages, `connection` offers pika as coroutines, `publisher` contains the sink
and the source of notices, and `consumer` the source of tasks.
"""

from coding_agent_core.queues.rabbitmq.consumer import RabbitMQSource
from coding_agent_core.queues.rabbitmq.publisher import RabbitMQNotices, RabbitMQSink

__all__ = ["RabbitMQNotices", "RabbitMQSink", "RabbitMQSource"]
