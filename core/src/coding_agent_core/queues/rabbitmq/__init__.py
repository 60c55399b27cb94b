"""The queue on RabbitMQ, with pika in a thread of its own (docs/decisions/0005).

`messages`: what is in which queue; `connection`: pika as coroutines; `publisher`: the sink; `consumer` and
`commands`: the sources of tasks and of commands.
"""

from coding_agent_core.queues.rabbitmq.commands import RabbitMQCommands
from coding_agent_core.queues.rabbitmq.consumer import RabbitMQSource
from coding_agent_core.queues.rabbitmq.publisher import RabbitMQSink

__all__ = ["RabbitMQCommands", "RabbitMQSink", "RabbitMQSource"]
