"""`python -m coding_agent_egress` runs Squid with the settings, and applies them again when they change.

Over HTTP on loopback, it answers agents that ask which of their requests Squid's log shows as denied.
"""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":
    # This comes before the imports below, which take time: the kernel drops a SIGTERM for a container's first
    # process if it has no handler. The image starts it with SIGTERM blocked (docs/decisions/0019).
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

import argparse
import base64
import binascii
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from coding_agent_core.errors import CodingAgentError, SettingsError
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.predecessor import translated
from coding_agent_core.settings.reading import read_settings
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.egress import job_of

from coding_agent_egress.squid import PAGES, VARIABLES, EgressSettings, ProxyFiles, configuration

_logger = logging.getLogger("coding_agent.egress")

_CHECK_S = 2.0
"""Time between two reads of the settings and the keys."""
_CHECK_LIMIT_S = 30.0
_STOP_LIMIT_S = 25.0
"""This is longer than Squid waits for open connections when it stops (`shutdown_lifetime`)."""
_ATTEMPTS = 2000
"""The denials of this many attempts are kept: far more than run at a time."""
_HOSTS = 50
"""The most hosts that are kept for one attempt; a command can invent any number of hosts."""


def load_settings(config: Path | None) -> EgressSettings:
    """Read the settings that this program needs.

    Raises:
        SettingsError: one of them is wrong.
    """
    return read_settings(EgressSettings, VARIABLES, config, translate=translated).require()


class Proxy:
    """Squid and its files."""

    def __init__(self, config: Path | None, place: ProxyFiles) -> None:
        self._config = config
        self._place = place
        self._squid = shutil.which("squid", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "squid"
        self._written: tuple[str, str] | None = None

    def write(self) -> bool:
        """Write Squid's files. Return whether its configuration has changed.

        Raises:
            SettingsError: the settings are wrong, the key is missing, or Squid refuses its configuration.
        """
        settings = load_settings(self._config)
        keys = Secrets(settings.egress.key).current()
        if not keys:
            raise SettingsError("egress.key is not set; it must be the same key as the operator's")
        parent = settings.egress.parent
        login = Secrets(parent.credentials).first() if parent else None
        text, secrets = configuration(settings, self._place, parent_login=login), "\n".join(keys)
        if (text, secrets) == self._written:
            return False
        self._place.pages.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, page in PAGES.items():
            (self._place.pages / name).write_text(page, encoding="utf-8")
        _replace(self._place.keys, secrets)
        before = self._written[0] if self._written else None
        # The helper reads the keys for each check, so new keys alone need no reload.
        if text != before:
            trial = self._place.folder / "squid.conf.new"
            _replace(trial, text)
            # With a wrong file, Squid would end at the reload, and all attempts would lose their way out.
            self._check(trial)
            trial.replace(self._place.configuration)
        self._written = text, secrets
        return text != before

    def start(self) -> subprocess.Popen[str]:
        """Start Squid; its standard output is its log."""
        # -N runs no second process. The path is absolute, because Squid reads the file again when it reloads.
        # The service name is part of the names of its shared memory, so two on one machine must differ.
        name = f"egress{self._place.port}"
        command = [self._squid, "-N", "-n", name, "-f", str(self._place.configuration.absolute())]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    def _check(self, file: Path) -> None:
        try:
            subprocess.run(
                [self._squid, "-k", "parse", "-f", str(file.absolute())],
                check=True,
                capture_output=True,
                text=True,
                timeout=_CHECK_LIMIT_S,
            )
        except FileNotFoundError as error:
            raise SettingsError("squid is not installed; on Debian it is the package `squid`") from error
        except subprocess.CalledProcessError as error:
            raise SettingsError(f"Squid refuses its configuration: {error.stderr.strip()[-500:]}") from error
        except subprocess.TimeoutExpired as error:
            raise SettingsError(
                f"Squid did not read its configuration within {_CHECK_LIMIT_S:g} s"
            ) from error


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically with one that only this user can read."""
    new = path.with_suffix(".part")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


class Denials:
    """Counts how often the proxy denied each host to each attempt, since this process started.

    Only the attempts that were denied last are kept, and the first hosts of each. Threads may share it.
    """

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, dict[str, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, entry: dict[str, Any]) -> bool:
        """Count a line of Squid's log if it is a denial, and return whether it is."""
        job = job_of(unquote(entry["user"]))
        if job is None or entry["status"] != 403 or "_DENIED" not in entry["result"]:
            return False
        host, port = unquote(entry["host"]), entry["port"]
        name = host if port in ("80", "443") else f"{host}:{port}"
        with self._lock:
            hosts = self._attempts.setdefault(job, {})
            self._attempts.move_to_end(job)
            # A command can invent names without end.
            if name in hosts or len(hosts) < _HOSTS:
                hosts[name] = hosts.get(name, 0) + 1
            if len(self._attempts) > _ATTEMPTS:
                self._attempts.popitem(last=False)
        return True

    def of(self, job: str) -> dict[str, int]:
        with self._lock:
            return dict(self._attempts.get(job, {}))


def server_of(denials: Denials, port: int) -> ThreadingHTTPServer:
    """Return the server on loopback, which only Squid reaches.

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
            """Log nothing: Squid logs the request already."""

        def _answer(self, status: int, body: dict[str, int]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _user(authorization: str) -> str:
    """Return the user name that Squid sends; empty if there is none."""
    try:
        return base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def run(config: Path | None, place: ProxyFiles) -> int:
    """Run until SIGTERM, or until Squid ends. Return 0 after a signal, otherwise a failing exit status.

    Raises:
        SettingsError: the proxy cannot start with these settings.
    """
    proxy, denials, stop = Proxy(config, place), Denials(), threading.Event()
    # This comes before Squid starts: a signal must not end this process and leave Squid running.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    proxy.write()
    server = server_of(denials, place.denials)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    squid = proxy.start()
    threading.Thread(target=_relay, args=(squid, denials), daemon=True).start()
    _logger.info("Serving on port %d", place.port)
    while squid.poll() is None and not stop.wait(_CHECK_S):
        try:
            if proxy.write():
                # Squid reads its configuration again and keeps open tunnels.
                squid.send_signal(signal.SIGHUP)
                _logger.info("The settings have changed and are now in force")
        except CodingAgentError as error:
            _logger.error(  # noqa: TRY400
                "The settings have changed and cannot be used; the old ones stay in force: %s", error
            )
    server.shutdown()
    if squid.poll() is None:
        squid.terminate()
        try:
            squid.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            squid.kill()
    return 0 if stop.is_set() else squid.wait() or 1


def _relay(squid: subprocess.Popen[str], denials: Denials) -> None:
    """Copy Squid's log to our own standard output, and count its denials."""
    assert squid.stdout is not None  # noqa: S101 - `start` asks for it
    for line in squid.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        try:
            denials.take(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue  # not a line of the log


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="coding-agent-egress", description=__doc__)
    parser.add_argument(
        "--config", type=Path, help="the settings file (default: CONFIG_FILE, else config.yaml)"
    )
    parser.add_argument("--host", default="", help="address to listen on (default: all)")
    parser.add_argument("--port", type=int, default=3128, help="port for attempts (default: 3128)")
    parser.add_argument("--denials-port", type=int, default=3130, help="port on loopback (default: 3130)")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/egress"), help="folder to write to")  # noqa: S108
    parser.add_argument("--hosts", type=Path, default=Path("/etc/hosts"), help="file of names and addresses")
    given = parser.parse_args()
    place = ProxyFiles(given.port, given.denials_port, given.folder.absolute(), given.host, given.hosts)
    try:
        settings = load_settings(given.config)
        configure(settings.logging)
        return run(given.config, place)
    except (CodingAgentError, OSError) as error:
        print(f"The egress proxy cannot start: {error}", file=sys.stderr)
        return 78


if __name__ == "__main__":
    sys.exit(main())
