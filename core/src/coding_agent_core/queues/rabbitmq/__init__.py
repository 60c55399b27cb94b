"""The queue on RabbitMQ, by pika (requirement S15; facts: practice of the field, *RabbitMQ*)."""

from coding_agent_core.queues.rabbitmq.sink import RabbitMQSink
from coding_agent_core.queues.rabbitmq.source import RabbitMQSource

__all__ = ["RabbitMQSink", "RabbitMQSource"]
