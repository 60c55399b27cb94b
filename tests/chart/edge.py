"""The way of a webhook from outside: TLS for a name that only the test knows, to Ingress or Gateway."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.until import until

from tests.chart.release import Release

HOST = "agent.example.test"
TLS_SECRET = "agent-tls"
_NOT_FORWARDED = {"host", "content-length", "connection", "accept-encoding", "transfer-encoding"}


@dataclass(frozen=True)
class Edge:
    """The Ingress or Gateway of a node, and the certificate of HOST."""

    address: str
    certificate: Path
    port: int = 443

    @property
    def key(self) -> Path:
        return self.certificate.with_name("tls.key")

    def values(self) -> dict[str, Any]:
        return {"ingress": {"enabled": True, "host": HOST, "tls": {"secretName": TLS_SECRET}}}

    def provide(self, release: Release) -> None:
        """Give the certificate to the release's namespace, as cert-manager would."""
        files = (f"--cert={self.certificate}", f"--key={self.key}")
        release.kubectl("create", "secret", "tls", TLS_SECRET, *files)

    def client(self) -> httpx2.Client:
        """A client that demands the very certificate and names HOST."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        return httpx2.Client(
            base_url=f"https://{self.address}:{self.port}",
            headers={"Host": HOST},
            verify=context,
            timeout=20,
            trust_env=False,
        )

    def post(self, client: httpx2.Client, path: str, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        return client.post(path, content=body, headers=headers, extensions={"sni_hostname": HOST})

    def wait(self, path: str = "/webhook/github") -> None:
        """Wait until the controller leads to the receiver: it answers an unsigned request 401."""
        with self.client() as client:

            def led() -> bool:
                return self.post(client, path, b"{}", {}).status_code == 401

            until("the way in leads to the receiver", led, timeout=120, interval=0.2)


def certificate(folder: Path, name: str = f"DNS:{HOST}") -> Path:
    """A certificate for `DNS:name` or `IP:address`, its own authority, with its key in the same folder."""
    extensions = [f"subjectAltName={name}", "keyUsage=critical,digitalSignature,keyCertSign"]
    subject = ["-subj", "/CN=sandbox", *(part for extension in extensions for part in ("-addext", extension))]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    run(["openssl", "req", "-x509", "-days", "2", *key, *subject, *files])
    return folder / "tls.crt"


@contextmanager
def forwarder(edge: Edge) -> Iterator[str]:
    """An address for a forge that cannot resolve HOST: what it sends goes on to HOST, byte for byte."""
    client = edge.client()

    class Forward(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_FORWARDED}
            try:
                answer = edge.post(client, self.path, body, headers)
                status, content = answer.status_code, answer.content
            except httpx2.HTTPError as error:
                status, content = 502, json.dumps({"error": repr(error)}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 512  # with the usual 5, of many deliveries at once some connect a second later

    server = Server(("127.0.0.1", 0), Forward)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        client.close()
