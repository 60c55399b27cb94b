"""The changes of test_pushes.py in the whole system, without Kubernetes."""

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import StartSystem
from tests.integration.main_job.scripts import finish, script, write
from tests.security.arranged_changes import label_arranged_changes


def test_in_one_process(start_system: StartSystem) -> None:
    system = start_system("gitlab", script(write("work.md", "The agent was here.\n"), finish()))
    system.start_webhook()
    label_arranged_changes(system)


def test_over_rabbitmq(start_system: StartSystem, rabbitmq: Broker, rabbitmq_queue: str) -> None:
    broker = {"host": rabbitmq.host, "port": rabbitmq.port, "queue": rabbitmq_queue}
    scripts = script(write("work.md", "The agent was here.\n"), finish())
    system = start_system("github", scripts, use_rabbitmq=True, rabbitmq=broker)
    system.start_webhook()
    system.start_consumer()
    label_arranged_changes(system)
