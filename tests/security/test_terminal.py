"""Wall: the terminal. Text of a hostile forge or API server is shown, and nothing of it is obeyed."""

import ast
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl_agenttask.__main__ import main, parser
from kubectl_agenttask.tables import console
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.fixtures.deliveries import github_issue

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202eevil"
SOURCES = Path(__file__).parents[2] / "plugin" / "src" / "kubectl_agenttask"
COMMANDS: dict[str, list[str]] = {
    "list": [],
    "spend": [],
    "describe": ["demo"],
    "logs": ["demo"],
    "wait": ["demo", "--timeout", "1s"],
    "cancel": ["demo", "-y"],
    "retry": ["demo", "-y"],
    "prune": ["-y"],
    "suspend": ["demo"],
    "resume": ["demo"],
    "open": ["demo", "--print"],
    "run": ["https://github.com/octo/demo/issues/7"],
    "hosts": ["registry.example.com/image:1"],
    "init": ["--platform", "github", "--api-url", "@/api/v3", "--repo", "octo/demo", "-y"],
    "version": [],
    "doctor": ["--repo", "octo/demo"],
}
"""Arguments of every command; `@` is the address of the hostile server."""
SHOWING = {"list", "describe", "logs", "wait", "open", "init", "doctor"}
"""Commands that show text of objects, and not only of errors."""
pytestmark = pytest.mark.timeout(300)


def obeyed(text: str) -> list[str]:
    """The characters of a text that a terminal obeys, or that change how the text around them reads."""
    return sorted({char for char in text if not (char.isprintable() or char in "\n\t")})


def task(name: str = "demo") -> dict[str, Any]:
    return {
        "apiVersion": "coding-agent.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": "u-1",
            "resourceVersion": "7",
            "generation": 1,
            "creationTimestamp": "2026-11-25T12:00:00Z",
            "labels": {"coding-agent.dev/item": ATTACK},
            "annotations": {"coding-agent.dev/cancelled-by": ATTACK, "coding-agent.dev/created-by": ATTACK},
        },
        "spec": {
            "source": {
                "platform": "github",
                "host": "github.com",
                "repository": "octo/demo",
                "kind": "issue",
                "number": 7,
            },
            "title": ATTACK,
            "url": f"https://github.com/octo/demo/issues/7{ATTACK}",
            "user": ATTACK,
            "run": 1,
            "trigger": {"origin": "webhook", "labeledAt": "2026-11-25T12:00:00Z"},
        },
        "status": {
            "phase": "Failed",
            "reason": ATTACK,
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "reason": "AgentFailed",
                    "message": ATTACK,
                    "lastTransitionTime": datetime.now(UTC).isoformat(),
                }
                for kind, status in (("Succeeded", "False"), ("Finished", "True"))
            ],
            "attempts": [
                {
                    "number": 1,
                    "job": f"demo-1{ATTACK}",
                    "startTime": "2026-11-25T12:00:00Z",
                    "completionTime": datetime.now(UTC).isoformat(),
                    "outcome": "Failed",
                    "reason": "AgentFailed",
                    "message": ATTACK,
                    "tail": f"{ATTACK}\n{ATTACK}",
                    "usage": {"requests": 1, "model": ATTACK, "cost": {"amount": "1", "currency": ATTACK}},
                }
            ],
            "result": {"branch": ATTACK, "changeURL": ATTACK},
        },
    }


class Hostile(BaseHTTPRequestHandler):
    """An API server and a forge that answer each request with an attack."""

    errors: bool

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.errors:
            return self._error()
        if path.endswith("/log"):
            return self._send(200, f"{ATTACK}\n".encode())
        if path.endswith("/agenttasks/demo"):
            return self._json(task())
        if path.endswith("/agenttasks"):
            return self._list("AgentTaskList", [task(), task("demo-2")])
        if path.endswith("/events"):
            event = {"metadata": {"name": "e"}, "type": ATTACK, "reason": ATTACK, "message": ATTACK}
            return self._list("EventList", [event])
        if path.endswith("/pods"):
            labels = {"coding-agent.dev/attempt": "1", "coding-agent.dev/task": "demo"}
            running = [{"name": "agent", "state": {"running": {"startedAt": "2026-11-25T12:00:00Z"}}}]
            pod = {
                "metadata": {"name": "pod", "labels": labels},
                "spec": {"containers": [{"name": "agent"}]},
                "status": {"phase": "Running", "containerStatuses": running},
            }
            return self._list("PodList", [pod])
        if "/secrets/" in path:
            return self._json({"kind": "Status", "status": "Failure", "message": ATTACK, "code": 404}, 404)
        if "/api/v3" in path:
            issue = github_issue()
            return self._json({**issue, "login": ATTACK, "id": 7, "full_name": ATTACK, "name": ATTACK})
        return self._error()

    def _error(self) -> None:
        self._json({"kind": "Status", "status": "Failure", "message": ATTACK, "reason": ATTACK}, 403)

    do_POST = do_PATCH = do_PUT = do_DELETE = _error

    def _list(self, kind: str, items: list[Any]) -> None:
        self._json({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items})

    def _json(self, body: object, status: int = 200) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status, ATTACK.replace("\r", "").encode("latin-1", "ignore").decode("latin-1"))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@dataclass(frozen=True)
class Server:
    """A hostile server, which answers with errors or with objects."""

    url: str
    errors: bool


@pytest.fixture(params=["errors", "objects"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    errors = request.param == "errors"
    running = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Hostile,), {"errors": errors}))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield Server(f"http://127.0.0.1:{running.server_port}", errors)
    running.shutdown()
    running.server_close()


def test_every_command_has_a_row() -> None:
    [actions] = [action for action in parser()._actions if action.choices and action.dest == "==SUPPRESS=="]
    assert set(actions.choices or ()) == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_a_hostile_answer_is_obeyed(
    command: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": server.url}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team"}}
    user = {"name": "u", "user": {"token": "t"}}
    config = {"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "c"}
    kubeconfig.write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_PERSONAL_ACCESS_TOKEN", "token")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    arguments = [text.replace("@", server.url) for text in COMMANDS[command]]
    main([command, "--kubeconfig", str(kubeconfig), *arguments])
    shown = "".join(capsys.readouterr())
    if command in SHOWING or server.errors:
        assert "evil" in shown, "the attack did not reach the screen, so this shows nothing"
    assert obeyed(shown) == []


def test_a_console_cleans_all_that_it_shows_and_keeps_its_own_colors() -> None:
    stream = io.StringIO()
    ours = console(stream)
    table = Table(title=ATTACK)
    table.add_column(ATTACK)
    table.add_row(Text(ATTACK))
    ours.print(ATTACK, Text(ATTACK), table, f"two\nlines\t{ATTACK}")
    assert obeyed(stream.getvalue()) == []
    assert "two\nlines" in stream.getvalue()
    assert "evil" in stream.getvalue()


def test_decoy_another_console_shows_what_a_terminal_obeys() -> None:
    stream = io.StringIO()
    Console(file=stream).print(ATTACK)
    assert "\x1b" in obeyed(stream.getvalue())


PRINTING = {"print", "getpass", "input"}
ALLOWED = {
    ("tables.py", "Console"): "the base of the console that cleans",
    ("__main__.py", "stdout"): "the streams of the consoles",
    ("__main__.py", "stderr"): "the streams of the consoles",
    ("completion.py", "stdout"): "each candidate is made plain",
    ("answers.py", "input"): "each question is made plain",
    ("answers.py", "getpass"): "each question is made plain",
}


def bypasses(source: str) -> Iterator[str]:
    """The ways around the console in a module: builtins that print, streams, and other consoles."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
            yield node.attr
        elif isinstance(node, ast.Name) and node.id in PRINTING and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
            yield "Console"
        elif isinstance(node, ast.ClassDef):
            yield from (base.id for base in node.bases if isinstance(base, ast.Name) and base.id == "Console")


def test_nothing_in_the_plugin_prints_but_the_console() -> None:
    found = {
        (file.name, way)
        for file in SOURCES.glob("*.py")
        for way in bypasses(file.read_text(encoding="utf-8"))
    }
    assert found - ALLOWED.keys() == set(), "print with `session.out` or `session.notes`"


@pytest.mark.parametrize("source", ["print(error)", "sys.stderr.write(text)", "Console().print(text)"])
def test_a_way_around_the_console_is_found(source: str) -> None:
    assert list(bypasses(source))
