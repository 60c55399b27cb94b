"""docker-compose.yml at work: label -> webhook through Caddy -> queue -> consumer -> pull request.

Then its rollback, in its own words: `stop webhook-server`, `up -d producer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import (
    BOT_TOKEN,
    DONE,
    MODEL_KEY,
    REPOSITORY,
    SECRET,
    StartSystem,
    System,
    until,
)
from tests.integration.main_job.scripts import finish, run, script, write
from tests.sweep.compose.conftest import Render
from tests.sweep.compose.machine import WEBHOOK_ADDRESSES, Machine, free_port, running_caddy

# The first use builds docker compose and Caddy.
pytestmark = pytest.mark.timeout(900)

KEY = "user-config-key-4242"


@pytest.fixture
def system(start_system: StartSystem) -> System:
    return start_system(
        "github",
        script(
            write("hello.txt", "hello\n"),
            run("echo left-behind > ~/trace; cat ~/trace; env"),
            finish("Said hello."),
        ),
    )


@pytest.fixture
def machine(
    rendered: Render, system: System, tmp_path: Path, rabbitmq: Broker, rabbitmq_queue: str
) -> Iterator[Machine]:
    token = tmp_path / "token"
    token.write_text(f"{BOT_TOKEN}\n")
    project = rendered(
        RABBITMQ_PASSWORD=rabbitmq.password,
        RABBITMQ_USER=rabbitmq.user,
        GITHUB_WEBHOOK_SECRET=SECRET,
        GITHUB_PERSONAL_ACCESS_TOKEN_FILE=str(token),
        GITHUB_API_URL=system.forge.api_url,
        GITHUB_OWNER="acme",
        OPENAI_API_KEY=MODEL_KEY,
        OPENAI_BASE_URL=system.model.base_url,
        OPENAI_MODEL="scripted",
        USER_CONFIG_API_KEY=KEY,
    )
    machine = Machine(
        project,
        tmp_path,
        {
            "RABBITMQ_HOST": rabbitmq.host,
            "RABBITMQ_PORT": str(rabbitmq.port),
            "RABBITMQ_QUEUE": rabbitmq_queue,
            "GATEWAY_HOST": "127.0.0.1",
        },
    )
    yield machine
    machine.close()


def test_label_to_pull_request_and_back_to_polling(machine: Machine, system: System, caddy: Path) -> None:
    settings_port, front = free_port(), free_port()
    users = machine.start("user-config-api", "--port", str(settings_port))
    users.says("Uvicorn running on")
    workspace = machine.start("workspace")
    workspace.says("Serving workspaces")
    consumer = machine.start("task-consumer", USER_CONFIG_API_URL=f"http://127.0.0.1:{settings_port}")
    consumer.says("Ready for tasks")
    servers = [machine.start_webhook_server(address) for address in WEBHOOK_ADDRESSES]

    address = f"http://localhost:{front}"
    with running_caddy(machine, caddy, SITE_ADDRESS=address, CADDY_HTTP_PORT=str(front)):
        system.forge.add_hook(REPOSITORY, f"{address}/webhook/github", SECRET)
        health = f"{address}/health"
        until(lambda: httpx.get(health, timeout=60).json()["status"] == "healthy", "the broker is reached")
        system.put_label(1)
        system.wait_for_label(1, DONE)
    [change] = system.changes()
    assert system.file_at(change.head, "hello.txt") == "hello\n"
    assert "WEAK ISOLATION" not in consumer.text()

    # The agent's commands ran in the workspace's container, which had nothing to steal, and is empty again.
    seen = str(system.model.requests)
    assert "left-behind" in seen
    for secret in (BOT_TOKEN, MODEL_KEY, KEY, SECRET):
        assert secret not in seen
    workspace.says("the workspace is empty again")

    # docker compose stop webhook-server && docker compose up -d producer
    assert [server.stop() for server in servers] == [0, 0]
    number = system.forge.open_issue(REPOSITORY, "Say hello again")
    system.put_label(number)
    machine.start("producer")
    # On a machine with much to do, a program can take minutes to start.
    until(lambda: DONE in system.labels(number), lambda: f"the task ends: {consumer.text()[-3000:]}", 300)
    assert len(system.changes()) == 2
