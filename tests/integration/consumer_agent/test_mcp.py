"""Tools of real MCP servers, over stdio and streamable HTTP; servers that are dead."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from coding_agent_consumer.agent import tools
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.until import until_async
from mcp.server import MCPServer

from tests.fixtures.model import call, finish, model_server, model_settings, script
from tests.integration.consumer_agent.running import Running, running

__all__ = ["running"]

SECRET = "mcp-secret-0123456789"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "START_TIMEOUT", 120.0)  # a server's imports alone take seconds


@contextmanager
def http_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a small MCP server over streamable HTTP, and what ends it."""
    server = MCPServer("prices")

    @server.tool()
    def price_of(article: str) -> str:
        """The price of an article."""
        return f"{article} costs 450"

    @server.tool()
    def catalogue() -> str:
        """More than a model can read."""
        return "tea 450\n" * 20_000

    @server.tool()
    def broken(article: str) -> str:
        """Fails."""
        raise RuntimeError(f"no price list for {article}")

    listening = socket.create_server(("127.0.0.1", 0))
    # Connections inherit it; without it each answer waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    program = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="critical"))
    thread = threading.Thread(target=program.run, args=([listening],), daemon=True)
    thread.start()

    def end() -> None:
        program.should_exit = program.force_exit = True
        thread.join(60)
        listening.close()

    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", end
    finally:
        end()


async def test_a_stdio_server_gets_its_own_environment_and_ends_with_the_attempt(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-agent-itself")
    program = tmp_path / "server.py"
    program.write_text(
        "import os\n"
        "from mcp.server import MCPServer\n"
        "server = MCPServer('env')\n"
        "@server.tool()\n"
        "def names() -> str:\n"
        "    return ' '.join(sorted(os.environ)) + f' pid={os.getpid()}.'\n"
        "server.run('stdio')\n"
    )
    server = {
        "mcp_server_name": "env",
        "command": [sys.executable, str(program)],
        "env": {"GIVEN_TOKEN": SECRET},
    }
    with model_server(script(call("env_names"), {**finish(), "expect": "GIVEN_TOKEN"})) as model:
        outcome = await running.work(model_settings(model.base_url, mcp_servers=[server]))
        told = model.requests[1]["messages"][-1]["content"]
        offered = {tool["function"]["name"] for tool in model.requests[0]["tools"]}
    assert outcome.reason is Reason.COMPLETED, outcome
    assert {"env_names", "run_command", "finish"} <= offered
    assert "OPENAI_API_KEY" not in told
    pid = int(told.split("pid=")[1].split(".")[0])
    await until_async("the server's end", lambda: not Path(f"/proc/{pid}").exists())


async def test_a_server_over_streamable_http_serves_its_tools_within_bounds(running: Running) -> None:
    with http_server() as (url, _):
        server = {"mcp_server_name": "shop", "url": url, "headers": {"Authorization": f"Bearer {SECRET}"}}
        turns = [call("shop_price_of", article="tea"), {**call("shop_catalogue"), "expect": "tea costs 450"}]
        with model_server(script(*turns, finish())) as model:
            outcome = await running.work(model_settings(model.base_url, mcp_servers=[server]))
            result = model.requests[2]["messages"][-1]["content"]
    assert outcome.reason is Reason.COMPLETED, outcome
    assert "characters omitted" in result
    assert len(result) < 50_000


async def test_tools_whose_names_clash_are_a_configuration_error(running: Running) -> None:
    with http_server() as (url, _):
        servers = [{"mcp_server_name": "shop", "url": url}, {"mcp_server_name": "shop", "url": url}]
        with model_server(script(finish())) as model:
            outcome = await running.work(model_settings(model.base_url, mcp_servers=servers))
    assert outcome.reason is Reason.CONFIGURATION
    assert "shop_price_of" in outcome.message


@pytest.mark.parametrize(
    "server",
    [
        {"mcp_server_name": "dead", "command": [sys.executable, "-c", "raise SystemExit(3)"]},
        {"mcp_server_name": "dead", "url": "http://127.0.0.1:1/mcp"},
    ],
    ids=["ends at once", "nothing listens"],
)
async def test_the_attempt_goes_on_without_a_dead_server_and_says_so(
    running: Running, server: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with model_server(script(call("list_files"), finish())) as model:
        outcome = await running.work(model_settings(model.base_url, mcp_servers=[server]))
        told = model.requests[0]["messages"][0]["content"]
    assert outcome.reason is Reason.COMPLETED, outcome
    assert "MCP server dead cannot be used" in [step.title for step in running.steps]
    assert "MCP server dead cannot be used; continuing without it" in caplog.text
    assert "not available now: dead" in told


async def test_an_http_server_that_dies_in_the_middle_loses_no_result(running: Running) -> None:
    with http_server() as (url, end):
        running.after_first_tool = end
        server = {"mcp_server_name": "shop", "url": url}
        turns = [
            call("shop_price_of", article="tea"),
            call("shop_price_of", article="cup"),
            {**finish("Done without it."), "expect": "(?i)error|does not answer|failed"},
        ]
        with model_server(script(*turns)) as model:
            outcome = await running.work(model_settings(model.base_url, mcp_servers=[server]))
    assert (outcome.reason, outcome.summary) == (Reason.COMPLETED, "Done without it."), outcome
