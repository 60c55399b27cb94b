"""The settings decide which queue there is."""

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.queues.connect import connect_sink, connect_source
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.queues.rabbitmq import RabbitMQSink, RabbitMQSource
from coding_agent_core.settings.model import Backend, Queue, Settings


def test_one_memory_serves_both_sides() -> None:
    memory = MemoryQueue()
    settings = Settings.model_construct()
    assert connect_sink(settings, memory=memory) is memory
    assert connect_source(settings, memory=memory) is memory


def test_memory_cannot_cross_processes() -> None:
    with pytest.raises(SettingsError, match="one process only"):
        connect_source(Settings.model_construct())


def test_rabbitmq_is_not_connected_before_it_is_used() -> None:
    settings = Settings.model_construct(use_rabbitmq=True)
    assert isinstance(connect_sink(settings), RabbitMQSink)
    assert isinstance(connect_source(settings), RabbitMQSource)


def test_kubernetes_is_refused_until_its_operator_is_there() -> None:
    settings = Settings.model_construct(queue=Queue(backend=Backend.KUBERNETES))
    for connect in (connect_sink, connect_source):
        with pytest.raises(SettingsError, match="AgentTask operator"):
            connect(settings)
