"""The programs under measurement, each a process of its own as a person runs it, and what it has used."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import yaml

from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.cluster.network import free_ports
from coding_agent_testbed.until import NotReadyError, until_async

ROOT = Path(__file__).resolve().parents[5]
START_SECONDS = 90.0
_STOP_SECONDS = 60.0
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? ([0-9.e+-]+)$", re.MULTILINE)


def free_port() -> int:
    """A loopback port that was free a moment ago, and that no connection gets by chance."""
    return free_ports(1)[0]


class Program:
    """A process with an HTTP server for probes and metrics on `port`; leaving the block ends it.

    Args:
        command: behind the interpreter; `{config}` in it becomes the settings' file.
        settings: its configuration.
        environment: in addition to PATH, HOME and LANG; nothing else of this process's is passed on.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        folder: Path,
        port: int,
        settings: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.port = port
        config = folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
        self._command = [sys.executable, *(entry.format(config=config) for entry in command)]
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Program:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._folder, env=self._environment
            )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    async def ready(self) -> None:
        """Wait until it says that it is.

        Raises:
            BenchError: it has ended, or is not ready in time; with the end of its log.
        """
        async with self._client() as http:

            async def answered() -> bool:
                if self._running().poll() is not None:
                    raise BenchError(f"the {self.name} ended at once: {self.log_tail()}")
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx2.TransportError:
                    return False

            try:
                await until_async(f"the {self.name} is ready", answered, timeout=START_SECONDS)
            except NotReadyError as error:
                raise BenchError(f"{error}; its log: {self.log_tail()}") from None

    async def acts(self) -> None:
        """Wait until an operator is ready and holds the Lease: one that waits for it calls itself ready too.

        Raises:
            BenchError: as `ready`.
        """
        await self.ready()

        async def leads() -> bool:
            return 1 in (await self.counters("coding_agent_operator_leader")).values()

        await until_async(f"the {self.name} holds the Lease", leads, timeout=START_SECONDS)
        await self.ready()

    async def api_requests(self, verb: str = "") -> float:
        """Requests to the API server so far, watches not counted: all, or those of one verb."""
        found = await self.counters("coding_agent_api_requests_total")
        return sum(value for labels, value in found.items() if f'verb="{verb}' in labels)

    async def counters(self, name: str) -> dict[str, float]:
        """The values of a metric by their labels, as Prometheus would scrape them."""
        async with self._client() as http:
            text = (await http.get("/metrics", headers={"Accept": "text/plain"})).text
        return {labels: float(value) for found, labels, value in _SAMPLE.findall(text) if found == name}

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return cpu_seconds(self._running().pid)

    def peak_mib(self) -> float:
        """The most memory that was resident so far (VmHWM in proc(5))."""
        return self._memory_mib("VmHWM")

    def resident_mib(self) -> float:
        """The memory that is resident now (VmRSS in proc(5))."""
        return self._memory_mib("VmRSS")

    def _memory_mib(self, key: str) -> float:
        status = Path(f"/proc/{self._running().pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    def log_tail(self) -> str:
        """The end of what it has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "(empty)"

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BenchError(f"the {self.name} was not started")
        return self._process


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, its own and the kernel's for it, all threads (proc(5))."""
    return _cpu_seconds(pid, user=11)


def children_cpu_seconds(pid: int) -> float:
    """Processor time of the descendants of a process that have ended and were waited for (proc(5))."""
    return _cpu_seconds(pid, user=13)


def _cpu_seconds(pid: int, user: int) -> float:
    """The time in user mode, which is at this place after the command's name, and the kernel's after it."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[user]) + int(fields[user + 1])) / os.sysconf("SC_CLK_TCK")


def main_py(
    mode: str,
    *,
    folder: Path,
    port: int,
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
    name: str | None = None,
) -> Program:
    """`main.py` in one of its modes."""
    command = [str(ROOT / "main.py"), "--config", "{config}", "--mode", mode]
    return Program(
        name or mode, command, folder=folder, port=port, settings=settings, environment=environment
    )
