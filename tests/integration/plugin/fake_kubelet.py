"""A node of which nothing but its containers' logs is real: the API server fetches them from here."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.fixtures.cluster import PlaneUnderTest


class FakeKubelet:
    """Answers `/containerLogs/NAMESPACE/POD/CONTAINER` (https://kubernetes.io/docs/reference/node/kubelet-files/).

    Attributes:
        lines: log lines by pod and container.
        asked: paths of the requests so far.
        go_on: the next line is sent when it is set.
    """

    def __init__(self, plane: PlaneUnderTest, node: str) -> None:
        self.node = node
        self.lines: dict[tuple[str, str], list[str]] = {}
        self.asked: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._plane = plane

    def __enter__(self) -> FakeKubelet:
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                kubelet.asked.append(self.path)
                _, _, _, pod, container = parts.path.split("/")
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                for line in kubelet.lines[pod, container]:
                    self.wfile.write(f"{line}\n".encode())
                    self.wfile.flush()
                    kubelet.go_on.wait(60)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A certificate for 127.0.0.1 by the authority that the API server asks of kubelets.
        pki = self._plane.plane.folders.pki
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        self._register()
        return self

    def __exit__(self, *_: object) -> None:
        self._plane.core.delete_node(self.node, _request_timeout=60)
        self._server.shutdown()
        self._server.server_close()

    def _register(self) -> None:
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        core = self._plane.core
        core.create_node({"metadata": {"name": self.node}}, _request_timeout=60)
        core.patch_node_status(self.node, {"status": status}, _request_timeout=60)
