"""Real bare repositories over git's own `http-backend`, with a token, and with faults on demand."""

import base64
import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from coding_agent_consumer.repository.git import Credentials
from coding_agent_core.forge.values import CloneSource

TOKEN = "canary-forge-token-0815"
USERNAME = "x-access-token"


@dataclass
class GitServer:
    root: Path
    port: int = 0
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Authorization header of each request."""
    answer: list[int] = field(default_factory=list)
    """Statuses to answer the next requests with, instead of working."""
    lost: int = 0
    """Answers to pushes that are lost after the push had its effect: the connection is cut."""
    redirect_to: str | None = None
    renamed: tuple[str, str] | None = None
    """The old and the new name of a repository; requests by the old one are redirected."""
    packed: list[int] = field(default_factory=list)
    """Objects in each pack that was sent."""

    def credentials(self, name: str = "sample.git", token: str = TOKEN) -> Credentials:
        source = CloneSource(url=f"http://127.0.0.1:{self.port}/{name}", username=USERNAME, token=token)

        async def now(refused: str, /, *, redirected: bool = False) -> CloneSource:
            return source

        return now

    def make(self, name: str = "sample.git", files: dict[str, str] | None = None) -> Path:
        bare = self.root / name
        work = self.root / f"{name}.work"
        git(self.root, "init", "-q", "-b", "main", str(work))
        for path, text in (
            files or {"README.md": "hello\n", "calc.py": "def add(a, b):\n    return a - b\n"}
        ).items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_text(text)
        git(work, "add", ".")
        git(work, "commit", "-q", "-m", "start")
        git(self.root, "clone", "-q", "--bare", str(work), str(bare))
        git(bare, "config", "http.receivepack", "true")
        return bare


async def permitted(branch: str) -> None:
    """There is no forge beside this server that could protect a branch."""


def git(where: Path, *arguments: str, check: bool = True) -> str:
    identity = ("-c", "user.name=person", "-c", "user.email=person@example.com")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=where, check=False, capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


class _Handler(BaseHTTPRequestHandler):
    state: GitServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _plain(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, body: bytes) -> None:
        self.state.seen.append((self.path, self.headers.get("Authorization")))
        if self.state.redirect_to is not None:
            return self._plain(302, Location=self.state.redirect_to + self.path)
        if self.state.renamed is not None and self.path.startswith(f"/{self.state.renamed[0]}/"):
            return self._plain(301, Location=self.path.replace(*self.state.renamed, 1))
        if self.state.answer:
            return self._plain(self.state.answer.pop(0))
        wanted = base64.b64encode(f"{USERNAME}:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {wanted}":
            return self._plain(401, WWW_Authenticate='Basic realm="git"')
        path = self.path.partition("?")[0]
        answer = self._of_the_backend(body)
        if self.state.lost and path.endswith("/git-receive-pack"):
            self.state.lost -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        self._pass_on(answer)

    def _of_the_backend(self, body: bytes) -> bytes:
        """The answer of `git http-backend`, as a CGI program gives it."""
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.state.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": USERNAME,
        }
        done = subprocess.run(
            ["git", "http-backend"], check=False, input=body, env=env, capture_output=True, timeout=60
        )
        return done.stdout

    def _pass_on(self, answer: bytes) -> None:
        head, _, payload = answer.partition(b"\r\n\r\n")
        _, pack, rest = payload.partition(b"PACK\0\0\0\2")
        if pack:
            self.state.packed.append(int.from_bytes(rest[:4], "big"))
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


@contextlib.contextmanager
def serve(root: Path, tls: tuple[Path, Path] | None = None) -> Iterator[GitServer]:
    """Serve the repositories of a folder, with TLS if a certificate and its key are given."""

    class Handler(_Handler):
        state = GitServer(root)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.state.port = server.server_address[1]
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Handler.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
