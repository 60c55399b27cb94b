"""docker-compose.yml with EGRESS=true on networks like Docker's: agents work, only the proxy leads out."""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import Call, Script, Turn
from coding_agent_testbed.model.server import ModelServer
from coding_agent_testbed.until import until

from tests.fixtures.rabbitmq import Broker
from tests.fixtures.system import BOT_TOKEN, DONE, MODEL_KEY, SECRET, System, sample_repository
from tests.sweep.compose.conftest import Render
from tests.sweep.compose.machine import Machine
from tests.sweep.compose.networks import INTERNET, Networks

pytestmark = [
    # The first use builds docker compose and installs the agents.
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="it needs iproute2"),
]
SERVICES = ("egress", "workspace", "task-consumer", "user-config-api")
KEY = "egress-key-4242"
ASK = """python3 - <<'END'
import urllib.request, urllib.error, socket
direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
def ask(name, opener, url):
    try:
        print("ASKED", name, opener.open(url, timeout=60).status)
    except urllib.error.HTTPError as error:
        print("ASKED", name, error.code)
    except OSError as error:
        print("ASKED", name, "unreachable")
proxied = urllib.request.build_opener()
ask("allowed", proxied, "http://packages.inside:{port}/")
ask("denied", proxied, "http://secrets.inside:{port}/")
ask("agent-only", proxied, "{forge}/")
ask("direct", direct, "http://{machine}:{port}/")
ask("broker", direct, "http://rabbitmq:15672/")
ask("metrics", direct, "http://gateway:8081/metrics")
ask("people", direct, "http://user-config-api:8080/health")
END
echo made > made.md
"""
EXPECTED = {
    "allowed": "200",
    "denied": "403",
    "agent-only": "403",
    "direct": "unreachable",
    "broker": "unreachable",
    "metrics": "unreachable",
    "people": "unreachable",
}


class _Ok(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def web_server(host: str) -> Iterator[int]:
    server = ThreadingHTTPServer((host, 0), _Ok)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


@contextlib.contextmanager
def passing_on(host: str, to: tuple[str, int]) -> Iterator[int]:
    """A port on `host` whose connections lead to another one."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*to)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(connected, host, 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)


# The programs of runners work behind the proxy in tests/sweep/runners.
def test_label_to_pull_request_with_the_proxy_as_the_only_way_out(
    rendered: Render, tmp_path: Path, rabbitmq: Broker, rabbitmq_queue: str
) -> None:
    given = {
        "RABBITMQ_PASSWORD": rabbitmq.password,
        "RABBITMQ_USER": rabbitmq.user,
        "USER_CONFIG_API_KEY": "k",
        "GITHUB_PERSONAL_ACCESS_TOKEN": BOT_TOKEN,
        "GITHUB_OWNER": "acme",
        "EGRESS": "true",
        "EGRESS_KEY": KEY,
    }
    networks = Networks(rendered(**given), SERVICES)
    world = networks.machine(INTERNET)
    networks.names = {"packages.inside": world, "secrets.inside": world}
    with contextlib.ExitStack() as stack:
        stack.enter_context(networks)
        forge = stack.enter_context(
            ForgeServer("github", sample_repository(), tmp_path / "forge", host=world)
        )
        port = stack.enter_context(web_server(world))
        command = ASK.format(port=port, forge=forge.base_url, machine=world)
        call = Call(tool="run_command", arguments={"command": command})
        last = Call(tool="finish", arguments={"status": "done", "summary": "Made."})
        scripts = [Script(turns=(Turn(calls=(call,)), Turn(calls=(last,))))]
        model = stack.enter_context(ModelServer(scripts, api_key=MODEL_KEY, host=world))
        system = System(forge, model, tmp_path)
        broker = stack.enter_context(passing_on(networks.machine("queue"), (rabbitmq.host, rabbitmq.port)))
        project = rendered(
            **given,
            GITHUB_API_URL=forge.api_url,
            OPENAI_API_KEY=MODEL_KEY,
            OPENAI_BASE_URL=model.base_url,
            OPENAI_MODEL="scripted",
        )
        networks.project = project
        config = yaml.safe_load(Path("dev/compose/config.yaml").read_text(encoding="utf-8"))
        config["egress"] = {"allow": [f"packages.inside:{port}"], "private": ["packages.inside"]}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        machine = Machine(project, tmp_path, {"RABBITMQ_PORT": str(broker), "RABBITMQ_QUEUE": rabbitmq_queue})
        stack.callback(machine.close)
        changed = {"CONFIG_FILE": str(tmp_path / "config.yaml")}

        # Squid does not run as root. In a namespace root has another number, and its files all the same.
        user = ["unshare", "--user", "--map-user=10001", "--map-group=10001"]
        folder = ["--folder", str(tmp_path / "egress")]
        egress = machine.start("egress", *folder, under=[*networks.command("egress"), *user], **changed)
        egress.says("Serving on port 3128")
        users = machine.start("user-config-api", under=networks.command("user-config-api"))
        users.says("Serving the settings of users on port")
        workspace = machine.start("workspace", under=networks.command("workspace"))
        workspace.says("Serving workspaces")
        consumer = machine.start("task-consumer", under=networks.command("task-consumer"), **changed)
        consumer.says("Ready for tasks")
        system.put_label(1)
        # The poller is not on a network of attempts.
        near = {"RABBITMQ_HOST": rabbitmq.host, "RABBITMQ_PORT": str(rabbitmq.port)}
        machine.start("producer", **near)
        # On a machine with much to do, a program can take minutes to start.
        until(
            lambda: f"the task ends: {consumer.text()[-3000:]}", lambda: DONE in system.labels(1), timeout=300
        )

        [change] = system.changes()
        assert system.file_at(change.head, "made.md") == "made\n", consumer.text()
        seen = str(model.requests)
        for name, answer in EXPECTED.items():
            assert f"ASKED {name} {answer}" in seen, (name, seen[-3000:])
        for secret in (BOT_TOKEN, MODEL_KEY, KEY, SECRET):
            assert secret not in seen
        comment = system.wait_for_comment(1, "Blocked by the egress proxy")
        assert f"`secrets.inside:{port}` (1 time)" in comment
        assert "An administrator can allow a host in `egress.allow`" in comment
        assert "Traceback" not in consumer.text()
