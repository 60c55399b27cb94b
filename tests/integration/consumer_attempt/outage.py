"""Stands between an attempt and its forge, which is away from a certain request on."""

from __future__ import annotations

import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

from coding_agent_cluster.network import free_ports

Kind = Literal["503", "refused", "hangs"]
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Outage:
    """A forge's address at which, from a request on and until `end`, nobody answers as he should.

    Attributes:
        url: in place of the forge's own.
        begun: set once the forge is away.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._kind: Kind = "503"
        self._first: re.Pattern[str] | None = None
        self._served = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.begun = threading.Event()
        # Nothing else may get it while nobody listens here.
        [self._port] = free_ports(1)
        self._listen(self._port)
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._close()

    def from_request(self, first: str, kind: Kind, *, served: bool = False) -> None:
        """Go away when a request matches, as `METHOD /path?query` from its start.

        Args:
            served: that one is worked on all the same, and its answer lost.
        """
        self._first, self._kind, self._served = re.compile(first), kind, served

    def begin(self, kind: Kind) -> None:
        """Go away now."""
        self._kind = kind
        self._away()

    def end(self) -> None:
        """Be there again."""
        self._first = None
        self._over.set()
        with self._lock:
            self.begun.clear()
            if self._kind == "refused":
                self._closing.join()  # else the port may still be in use
                self._listen(self._port)

    def _away(self) -> None:
        with self._lock:
            if not self.begun.is_set():
                self.begun.set()
                if self._kind == "refused":
                    # From a thread of its own: it waits for the server's loop, which may wait for this one.
                    self._closing = threading.Thread(target=self._close)
                    self._closing.start()

    def _listen(self, port: int) -> None:
        handler = type("Handler", (_Handler,), {"outage": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: _Handler) -> None:
        """Answer a request, or not."""
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        first = self._first
        if first is not None and first.match(f"{request.command} {request.path}"):
            if self._served and not self.begun.is_set():
                self._forward(request, body)
                self._away()
                return  # closed without an answer
            self._away()
        if not self.begun.is_set():
            status, headers, content = self._forward(request, body)
            request.send_response(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    request.send_header(name, value)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)
        elif self._kind == "503":
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif self._kind == "hangs":
            self._over.wait(600)

    def _forward(self, request: _Handler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            headers = {
                name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
            }
            connection.request(request.command, request.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request (HTTP/1.0)."""

    outage: Outage

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.outage.answer(self)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET
