"""`helm test` bears what passes (a lost answer, a busy API server) and says what is wrong otherwise."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.chart.edge import certificate
from tests.unit.chart.test_sources import CHART, load

Answers = Callable[[str, bytes], tuple[int, dict[str, Any]]]
TASK = "helm-test-issue-1-0000"


@contextmanager
def serving(answers: Answers, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server whose answers the test decides, by method and body; its port."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, found = answers(self.command, body)
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Place:
    """Receiver and API server of a `helm test`.

    Attributes:
        first: what the receiver answers the first time, though it has made the task.
        refused: the status that the API server answers the first request of each kind, though it has obeyed.
    """

    def __init__(self) -> None:
        self.first: tuple[int, dict[str, Any]] | None = None
        self.again = {"status": "duplicate", "task": TASK}
        self.refused = 0
        self.task: dict[str, Any] | None = None
        self.asked: list[str] = []

    def receiver(self, _: str, body: bytes) -> tuple[int, dict[str, Any]]:
        self.asked.append("POST")
        if self.task is not None:
            return 200, self.again
        payload = json.loads(body)
        repository, number = payload["repository"]["full_name"], payload["issue"]["number"]
        self.task = {"spec": {"source": {"repository": repository, "number": number}}}
        return self.first or (200, {"status": "success", "task": TASK})

    def api(self, method: str, _: bytes) -> tuple[int, dict[str, Any]]:
        self.asked.append(method)
        if self.task is None:
            return 404, {}
        found = self.task
        if method == "DELETE":
            self.task = None
        if self.refused and self.asked.count(method) == 1:
            return self.refused, {}
        return 200, found


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def selftest(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = load(CHART / "files" / "selftest.py")
    forges = json.loads((CHART / "files" / "forges.json").read_text())
    file = certificate(tmp_path, "IP:127.0.0.1")
    file.rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("t")
    (tmp_path / "github").write_text("a-secret-of-the-webhook")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "tls.key")
    module.ACCOUNT = module.SECRETS = tmp_path  # type: ignore[attr-defined]
    module.PAUSE_S = 0.01  # type: ignore[attr-defined]
    with serving(place.receiver) as receiver, serving(place.api, context) as api:
        for name, value in {
            "RECEIVER_URL": f"http://127.0.0.1:{receiver}",
            "LABELS": json.dumps({"github": "coding agent"}),
            "HOSTS": json.dumps({"github": "github.com"}),
            "SAMPLES": json.dumps({name: facts["sample"] for name, facts in forges.items()}),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api),
            "POD_NAMESPACE": "agents",
        }.items():
            monkeypatch.setenv(name, value)
        yield module


def test_a_task_whose_answer_was_lost_is_found_and_removed(selftest: ModuleType, place: Place) -> None:
    place.first = (503, {"status": "error", "reason": "the queue did not answer in time"})
    assert selftest.main() == 0
    assert place.asked == ["POST", "POST", "GET", "DELETE"]
    assert place.task is None


def test_a_busy_api_server_is_asked_again(selftest: ModuleType, place: Place) -> None:
    place.refused = 503
    assert selftest.main() == 0
    # The second DELETE finds what the first, whose answer was a 503, has deleted.
    assert place.asked == ["POST", "GET", "GET", "DELETE", "DELETE"]
    assert place.task is None


def test_the_setting_that_keeps_it_out_is_named(selftest: ModuleType, place: Place) -> None:
    place.first = (403, {"status": "error", "reason": "your address is not allowed to send webhooks"})
    with pytest.raises(SystemExit, match=r"(?s)your address.*config\.webhook\.allowed_networks"):
        selftest.main()
    assert place.asked == ["POST"]


def test_somebody_elses_task_is_left_alone(
    selftest: ModuleType, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.task = {"spec": {"source": {"repository": "acme/pricing", "number": 7}}}
    assert selftest.main() == 1
    assert "is not the task of this test" in capsys.readouterr().err
    assert place.task is not None
    assert "DELETE" not in place.asked
