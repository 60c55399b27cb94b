"""Caddy with the project's file: TLS, load balancing, and no failed request when a replica dies (S24)."""

import itertools
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from coding_agent_testbed.until import until

from tests.fixtures.deliveries import SECRET, encode, github_headers, github_issue
from tests.fixtures.rabbitmq import Broker
from tests.sweep.compose.conftest import Render
from tests.sweep.compose.machine import WEBHOOK_ADDRESSES, Machine, Running, free_port, running_caddy

# The first use builds Caddy.
pytestmark = pytest.mark.timeout(900)

REQUESTS = 120


@pytest.fixture
def machine(rendered: Render, tmp_path: Path, rabbitmq: Broker, rabbitmq_queue: str) -> Iterator[Machine]:
    project = rendered(
        RABBITMQ_PASSWORD=rabbitmq.password, USER_CONFIG_API_KEY="k", GITHUB_WEBHOOK_SECRET=SECRET
    )
    hosts = {
        "RABBITMQ_HOST": rabbitmq.host,
        "RABBITMQ_PORT": str(rabbitmq.port),
        "RABBITMQ_USER": rabbitmq.user,
        "RABBITMQ_QUEUE": rabbitmq_queue,
    }
    machine = Machine(project, tmp_path, hosts)
    yield machine
    machine.close()


def trusting(machine: Machine, server: Running) -> ssl.SSLContext:
    """What a client makes of Caddy's own root certificate, which `.env.example` says how to get."""
    root = Path(machine.local("caddy", "/data")) / "caddy/pki/authorities/local/root.crt"
    server.says("certificate obtained successfully")
    return ssl.create_default_context(cafile=str(root))


def signed(number: int) -> tuple[bytes, dict[str, str]]:
    body = encode(github_issue(number=number))
    return body, github_headers(body, delivery=f"d-{number}")


def had_its_share(server: Running) -> bool:
    return server.text().count("Task queued successfully") > REQUESTS // 20


def test_a_replica_dies_under_load_and_no_request_fails(machine: Machine, caddy: Path) -> None:
    https = free_port()
    servers = [machine.start_webhook_server(address) for address in WEBHOOK_ADDRESSES]
    ports = {"CADDY_HTTP_PORT": str(free_port()), "CADDY_HTTPS_PORT": str(https)}
    with running_caddy(machine, caddy, **ports) as proxy:
        context = trusting(machine, proxy)
        answers: list[int] = []
        numbers = itertools.count(1)
        died = threading.Event()

        def send() -> None:
            """Before, while and after the replica dies, however quick this machine is."""
            with httpx2.Client(base_url=f"https://localhost:{https}", verify=context, timeout=60) as client:
                left = REQUESTS // 4
                while left:
                    body, headers = signed(next(numbers))
                    answers.append(client.post("/webhook/github", content=body, headers=headers).status_code)
                    left -= died.is_set()

        with ThreadPoolExecutor(4) as pool:
            senders = [pool.submit(send) for _ in range(4)]
            try:
                until(
                    "a quarter of the requests is answered", lambda: len(answers) > REQUESTS // 4, timeout=180
                )
                until("both had their share", lambda: all(map(had_its_share, servers)), timeout=180)
                servers[0].kill()
            finally:
                died.set()
            for sender in senders:
                sender.result(300)
    assert set(answers) == {200}
    assert len(answers) > REQUESTS


def test_what_the_world_sees(machine: Machine, caddy: Path) -> None:
    http, https = free_port(), free_port()
    server = machine.start_webhook_server(WEBHOOK_ADDRESSES[1])
    ports = {"CADDY_HTTP_PORT": str(http), "CADDY_HTTPS_PORT": str(https)}
    with running_caddy(machine, caddy, **ports) as proxy:
        verify, where = trusting(machine, proxy), f"https://localhost:{https}"
        with httpx2.Client(base_url=where, verify=verify, timeout=60) as client:
            until("the broker is reached", lambda: client.get("/health").json()["queue_connected"])
            assert client.get("/metrics").status_code == 404
            assert client.get("/readyz").status_code == 404
            assert "server" not in client.get("/health").headers
            # Over Caddy's limit, told by the length alone.
            large = client.post("/webhook/github", content=b"x" * (25 * 1024 * 1024 + 1))
            assert large.status_code == 413
        plain = httpx2.get(f"http://localhost:{http}/health", timeout=60)
        assert plain.status_code == 308
        assert plain.headers["location"].startswith("https://localhost")

        server.stop()
        body, headers = signed(1)
        with httpx2.Client(base_url=where, verify=verify, timeout=60) as client:
            refused = client.post("/webhook/github", content=body, headers=headers)
            assert refused.status_code in (502, 503), "the forge notes a failed delivery, not a lost one"
