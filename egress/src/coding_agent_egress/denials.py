"""What the proxy has denied: by Squid's log, for the agents that ask, over HTTP on loopback."""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any
from urllib.parse import unquote

from coding_agent_core.egress import job_of

_ATTEMPTS = 2000
"""Attempts that are remembered: far more than run at a time."""
_HOSTS = 50
"""Hosts of one attempt; a command can invent any number."""


class Denials:
    """How often each host was denied to each attempt, since this process started."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._lock = Lock()

    def take(self, entry: dict[str, Any]) -> bool:
        """Count a line of Squid's log if it is a denial; whether it was one."""
        job = job_of(unquote(entry["user"]))
        if job is None or entry["status"] != 403 or "_DENIED" not in entry["result"]:
            return False
        host, port = unquote(entry["host"]), entry["port"]
        name = host if port in ("80", "443") else f"{host}:{port}"
        with self._lock:
            hosts = self._attempts.setdefault(job, {})
            self._attempts.move_to_end(job)
            if name in hosts or len(hosts) < _HOSTS:
                hosts[name] = hosts.get(name, 0) + 1
            if len(self._attempts) > _ATTEMPTS:
                self._attempts.popitem(last=False)
        return True

    def of(self, job: str) -> dict[str, int]:
        with self._lock:
            return dict(self._attempts.get(job, {}))


def server_of(denials: Denials, port: int) -> ThreadingHTTPServer:
    """The server on loopback, which Squid alone reaches.

    `GET /` answers `{"HOST": COUNT}` for the user's attempt.

    Raises:
        OSError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/healthz":
                return self._answer(200, {})
            job = job_of(_user(self.headers.get("Authorization", "")))
            return self._answer(200, denials.of(job)) if job else self._answer(403, {})

        def log_message(self, format: str, *args: object) -> None:
            """Squid's log has it already."""

        def _answer(self, status: int, body: dict[str, int]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _user(authorization: str) -> str:
    """The user name that Squid sends; empty if there is none."""
    try:
        return base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""
