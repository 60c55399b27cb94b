"""The reporter as a process, under an account with nothing but its own rights."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.preloaded import Forked, start_main

ROOT = Path(__file__).parents[3]
DEADLINE = 90.0
"""Seconds within which anything happens on a machine that is busy with other tests; it is not a promise."""


def until(what: str, condition: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"did not happen within {timeout:.0f} s: {what}"
        time.sleep(0.03)
    return value


def account(plane: PlaneUnderTest, namespace: str, folder: Path) -> Path:
    """A kubeconfig of the reporter's account, with nothing but what `deploy/reporter-role.yaml` gives."""
    return accounts.account(plane, "operator/deploy/reporter-role.yaml", namespace, folder)


def start_reporter(kubeconfig: Path, config: Path, log: Path) -> Forked:
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    environment |= {"KUBECONFIG": str(kubeconfig), "CONFIG_FILE": str(config)}
    return start_main(["--mode", "reporter"], env=environment, cwd=config.parent, log=log)


class Reporter:
    """The reporter as a process."""

    def __init__(self, kubeconfig: Path, config: Path) -> None:
        self._kubeconfig, self._config = kubeconfig, config
        self._log = config.with_suffix(".log")
        self._process: Forked | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Reporter:
        self._process = start_reporter(self._kubeconfig, self._config, self._log)
        return self

    @property
    def port(self) -> int:
        """Of its HTTP server, which takes a free one and says which; 0 until then."""
        found = re.findall(r"Probes and metrics are at \S+, port (\d+)", self.log())
        return int(found[-1]) if found else 0

    def metric(self, name: str) -> float:
        """The value of a metric, named with its labels as Prometheus reads it."""
        _, text = self.probe("/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is missing"
        return float(found[1])

    def probe(self, path: str) -> tuple[int, str]:
        """GET from its HTTP server: status and text; 0 while nobody listens."""
        port = self.port
        if not port:
            return 0, ""
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60, trust_env=False)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    def ready(self) -> Reporter:
        until("the reporter is ready", lambda: self.probe("/readyz")[0] == 200)
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(DEADLINE)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""
