"""Receiver and consumers apart, over a real broker: killed, restarted, doubled, yet done once (S15)."""

import json
import re
from collections.abc import Callable

import httpx2
import pytest
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import DONE, REPOSITORY, Program, StartSystem, System, over
from tests.integration.core_queues.steps import Queue
from tests.integration.main_job.scripts import finish, run, script, write

Start = Callable[..., System]


def slow(seconds: float) -> list[object]:
    return list(script(write("a.md", "a\n"), run(f"sleep {seconds}"), finish("Took its time.")))


@pytest.fixture
def start(start_system: StartSystem, rabbitmq: Broker, rabbitmq_queue: str) -> Start:
    broker = {"host": rabbitmq.host, "port": rabbitmq.port, "queue": rabbitmq_queue, "heartbeat": 30}
    return lambda flavour, scripts: start_system(flavour, scripts, use_rabbitmq=True, rabbitmq=broker)


def at_work(system: System) -> None:
    until("the agent is in mid-task", lambda: len(system.model.requests) >= 2)


def test_a_consumer_killed_in_mid_task_loses_nothing(start: Start) -> None:
    # The first attempt ends by the kill alone, however late that comes.
    second = Script(match="An earlier attempt", turns=(write("a.md", "a\n"), finish()))
    scripts = [second, *slow(600)]
    system = start("github", scripts)
    system.start_webhook()
    first = system.start_consumer()
    system.put_label(1)
    at_work(system)
    first.kill()
    system.start_consumer()
    system.wait_for_label(1, DONE)
    [comment] = system.comments(1)
    assert "attempt 2 of 3" in comment.body
    assert len(system.changes()) == 1


def test_webhook_redelivery_and_poll_together_make_one_task(
    start: Start, rabbitmq: Broker, rabbitmq_queue: str
) -> None:
    system = start("gitlab", slow(0.5))
    system.start_webhook()
    system.put_label(1)
    log, queue = system.forge.sandbox.deliveries.log, Queue(rabbitmq, rabbitmq_queue)

    def waits() -> bool:
        """Whether a poll can see it. The answer to a webhook does not wait for that."""
        for answer in system.forge.run(lambda: [one.response_body for one in log if one.status_code == 200]):
            waiting = f".waiting.{json.loads(answer)['task']}"
            return queue.exists(waiting) and queue.ready(waiting) == 1
        return False

    until("the webhook's message waits", waits)
    producer = system.start("--mode", "producer")
    assert producer.process.wait(60) == 0
    assert "1 known" in producer.text(), "the task's message is already in the queue"
    for _ in range(2):
        system.start_consumer()
    system.wait_for_label(1, DONE)
    [comment] = system.comments(1)
    assert "attempt 1 of 3" in comment.body
    assert "-r2" not in comment.body
    assert len(system.changes()) == 1
    assert len(system.model.requests) == 3, "one run of three requests"


def test_consumer_and_producer_serve_their_metrics(start: Start) -> None:
    system = start("github", slow(0))
    place = {"http_host": "127.0.0.1", "http_port": 0}
    system.sections = over(system.sections, {"development": place})
    system.put_label(1)
    producer = system.start("--mode", "producer", "--loop")
    consumer = system.start_consumer()
    system.wait_for_label(1, DONE)
    labels = f'model="scripted",repository="{REPOSITORY}"'
    until(
        "it is counted", lambda: f"coding_agent_model_requests_total{{{labels}}} 3.0" in metrics_of(consumer)
    )
    recovered = 'coding_agent_tasks_recovered_by_poll_total{platform="github"} 1.0'
    until("the poll's end, which the consumer does not wait for", lambda: recovered in metrics_of(producer))


def metrics_of(program: Program) -> str:
    [port] = re.findall(r"Metrics are at 127.0.0.1, port (\d+)", program.text())
    return httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60, trust_env=False).text
