"""An attempt's own programs at the real proxy: the clients of the agent, and what it hears of denials."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from coding_agent_consumer.workspace.egress import denials, egress_proxy, proxy_variables
from coding_agent_core.task.egress import Denial, Role, user_name, variables
from coding_agent_testbed.cluster.network import free_ports
from coding_agent_testbed.until import until

from tests.fixtures.egress import EgressProxy, StartEgress

_BUCKET = """
from datetime import timedelta
from obstore.store import S3Store
limit = timedelta(seconds=10)
options = {"allow_http": True, "timeout": limit}
config = {"region": "r", "aws_endpoint_url_s3": "https://bucket.invalid"}
config |= {"access_key_id": "a", "secret_access_key": "b"}
retries = {"max_retries": 0, "retry_timeout": limit}
S3Store("logs", config=config, client_options=options, retry_config=retries).put("x", b"1")
"""


@pytest.fixture(scope="module")
def proxy(start_egress: StartEgress) -> EgressProxy:
    return start_egress({})


async def test_an_attempt_hears_what_was_denied(proxy: EgressProxy) -> None:
    agent = proxy.variables("web-1-1", Role.AGENT)
    assert await denials(agent) == ()
    for host in ("https://a.example.com/", "https://b.example.com/", "https://b.example.com/"):
        proxy.get(host, "web-1-1")
    expected = {"a.example.com": 1, "b.example.com": 2}
    until("all are counted", lambda: proxy.denials("web-1-1") == expected)
    assert await denials(agent) == (
        Denial(host="b.example.com", count=2),
        Denial(host="a.example.com", count=1),
    )
    assert await denials({"HTTP_PROXY": "http://127.0.0.1:9"}) == (), "another proxy is not asked"
    assert await denials({**agent, "HTTP_PROXY": agent["HTTP_PROXY"].rpartition(":")[0] + ":9"}) == ()


async def test_a_proxy_that_closes_the_connection_is_asked_again_if_there_is_time() -> None:
    connections = 0

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        agent = variables(f"127.0.0.1:{port}", user_name("web-1-1", Role.AGENT), "key")
        assert await denials(agent) == ()
        assert connections == 2
        assert await denials(agent, hurry=True) == ()
        assert connections == 3


def test_only_our_own_proxy_counts(proxy: EgressProxy) -> None:
    agent = proxy.variables("web-1-1", Role.AGENT)
    assert egress_proxy(agent) == agent["HTTP_PROXY"]
    assert proxy_variables({**agent, "GITHUB_TOKEN": "t"}) == agent
    assert proxy_variables({"HTTP_PROXY": "http://proxy.example.com:3128"}) == {}


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("bucket.invalid", [sys.executable, "-c", _BUCKET]),
        ("forge.invalid", ["git", "ls-remote", "https://forge.invalid/o/r.git"]),
    ],
)
def test_each_client_of_the_agent_uses_the_proxy(
    proxy: EgressProxy, host: str, command: list[str], tmp_path: Path
) -> None:
    job = f"{host.partition('.')[0]}-1"
    agent = proxy.variables(job, Role.AGENT)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **agent}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode != 0
    until(
        lambda: f"the proxy was asked: {proxy.log()}\n{run.stderr}", lambda: proxy.denials(job) == {host: 1}
    )


SQUID = """#!/bin/sh
case "$*" in *"-k parse"*) kill -TERM $PPID; exit 0;; esac
echo $$ > {folder}/pid
exec sleep 600
"""


def test_a_stop_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    squid, config = tmp_path / "bin" / "squid", tmp_path / "config.yaml"
    squid.parent.mkdir()
    squid.write_text(SQUID.format(folder=tmp_path))
    squid.chmod(0o755)
    config.write_text(yaml.safe_dump({"egress": {"key": "shared"}}))
    port, denials = free_ports(2)
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--denials-port", str(denials), "--folder", str(tmp_path / "run")]
    program = subprocess.run(
        [sys.executable, "-m", "coding_agent_egress", *arguments],
        env={**os.environ, "PATH": f"{squid.parent}:{os.environ['PATH']}"},
        timeout=60,
        check=False,
    )
    assert program.returncode == 0
    started = tmp_path / "pid"
    pid = started.read_text().strip() if started.exists() else ""
    assert not (pid and Path("/proc", pid).exists())
