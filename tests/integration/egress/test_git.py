"""git over HTTPS through the proxy: a real server, git's own, with a certificate of the test's authority."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from coding_agent_core.egress import VARIABLES

from tests.fixtures.egress import StartEgress

_HOST = "git.inside"
_IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.com")


class GitServer(BaseHTTPRequestHandler):
    """`git http-backend`, as a web server runs it."""

    root: Path

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "a",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            env=environment,
            stdout=subprocess.PIPE,
            timeout=60,
            check=True,
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(lines.pop("Status", "200").split()[0]))
        for name, value in lines.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server, and its own authority; the key is in the same file."""
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += [
        "-days",
        "2",
        "-subj",
        f"/CN={_HOST}",
        "-addext",
        f"subjectAltName=DNS:{_HOST},DNS:canary.inside",
    ]
    command += ["-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def server(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A git server with the repository `o/r.git`; its port."""
    root = tmp_path_factory.mktemp("git")
    for command in (
        ["init", "--bare", "--initial-branch=main", "o/r.git"],
        ["-C", "o/r.git", "config", "http.receivepack", "true"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, timeout=60)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    served = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (GitServer,), {"root": root}))
    served.socket = context.wrap_socket(served.socket, server_side=True)
    threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield int(served.server_port)
    served.shutdown()


def test_git_clones_and_pushes_at_a_listed_host_only(
    start_egress: StartEgress, server: int, certificate: Path, tmp_path: Path
) -> None:
    lists = {"repositories": {"o/mine": [f"{_HOST}:{server}"]}, "private": [_HOST]}
    proxy = start_egress({"egress": lists}, {_HOST: "127.0.0.1", "canary.inside": "127.0.0.1"})
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    own |= {"GIT_SSL_CAINFO": str(certificate / "certificate.pem"), "GIT_TERMINAL_PROMPT": "0"}

    def git(*arguments: str, repository: str = "o/mine") -> subprocess.CompletedProcess[str]:
        environment = own | proxy.variables("git-1", repository=repository)
        return subprocess.run(
            ["git", *_IDENTITY, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    url = f"https://{_HOST}:{server}/o/r.git"
    denied = git("clone", url, "clone", repository="o/another")
    assert denied.returncode != 0
    assert "403" in denied.stderr, denied.stderr
    cloned = git("clone", url, "clone")
    assert cloned.returncode == 0, cloned.stderr
    (tmp_path / "clone" / "a").write_text("work\n")
    git("-C", "clone", "add", "a")
    git("-C", "clone", "commit", "-m", "Work")
    pushed = git("-C", "clone", "push", "origin", "HEAD:refs/heads/main")
    assert pushed.returncode == 0, pushed.stderr

    for canary in (f"https://canary.inside:{server}", f"https://127.0.0.2:{server}", "http://canary.inside"):
        sent = git("-C", "clone", "push", f"{canary}/o/r.git", "HEAD:refs/heads/stolen")
        assert sent.returncode != 0
        assert "403" in sent.stderr, sent.stderr
    heads = git("ls-remote", "--heads", url)
    assert [line.split()[1] for line in heads.stdout.splitlines()] == ["refs/heads/main"], heads.stderr
