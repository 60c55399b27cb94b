"""A namespace with the CRD, the operator's own account, and the operator as a process."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import yaml
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task import agenttask
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger
from coding_agent_testbed.until import TIMEOUT_S, until

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.preloaded import Process, start_main

_T = TypeVar("_T")
ROOT = Path(__file__).parents[3]
ACCOUNT = "coding-agent-operator"
QUICK: dict[str, Any] = {
    "http_host": "127.0.0.1",
    "http_port": 0,
    "relist_interval": 30,
    "position_interval": 0.2,
    "retry_delay": 0.05,
    "retry_delay_max": 0.2,
}
"""Waits short enough for a test, in the section `development`."""


def account(plane: PlaneUnderTest, namespace: str, folder: Path, server: str | None = None) -> Path:
    """A kubeconfig of the operator's service account, with nothing but what `deploy/role.yaml` gives."""
    return accounts.account(plane, "operator/deploy/role.yaml", namespace, folder, server)


class ServedProgram:
    """The operator or the reporter as a user runs it."""

    mode = "operator"

    def __init__(self, kubeconfig: Path, config: Path) -> None:
        self._folder, self._log = config.parent, config.with_suffix(".log")
        self._environment = {
            **{key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")},
            "KUBECONFIG": str(kubeconfig),
            "CONFIG_FILE": str(config),
            # As in a pod: a container that was killed is the same operator when it starts again.
            "POD_NAME": f"operator-{os.urandom(3).hex()}",
        }
        self.command: list[str] = []
        """Of another program than our own."""
        self._process: Process | None = None

    @property
    def port(self) -> int:
        """Of its HTTP server, which takes a free one and says which; 0 until then."""
        found = re.findall(r"Probes and metrics are at \S+, port (\d+)", self.log())
        return int(found[-1]) if found else 0

    def probe(self, path: str) -> tuple[int, str]:
        """GET from its HTTP server: status and text; 0 while nobody listens."""
        if not (port := self.port):
            return 0, ""
        try:
            answer = httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=60, trust_env=False)
        except httpx2.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    def start(self, **more: str) -> Self:
        """Start it, with more variables if given."""
        arguments, environment = ["--mode", self.mode], self._environment | more
        if not self.command:
            self._process = start_main(arguments, env=environment, cwd=self._folder, log=self._log)
            return self
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=environment, stdout=log, stderr=log, cwd=self._folder
            )
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)
            raise AssertionError(f"the {self.mode} did not end:\n{self.log()}") from None

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


class OperatorProcess(ServedProgram):
    """The operator with settings."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path, settings: dict[str, Any]) -> None:
        own = {
            "operator": {"namespace": namespace, **settings.get("operator", {})},
            "development": {**QUICK, **settings.get("development", {})},
        }
        config = folder / f"operator-{os.urandom(3).hex()}.yaml"
        config.write_text(yaml.safe_dump({**settings, **own}))
        super().__init__(kubeconfig, config)


def task_body(number: int, *, repository: str = "octo/demo", run: int = 1) -> dict[str, Any]:
    """An AgentTask as the receiver makes it for a labeled issue."""
    item = Item(
        platform=Platform.GITHUB, host="github.com", repository=repository, kind=ItemKind.ISSUE, number=number
    )
    now = datetime.now(UTC)
    request = TaskRequest(item=item, user="alice", trigger=Trigger(origin=Origin.WEBHOOK, received_at=now))
    return agenttask.manifest(request, run=run, timeout_seconds=600, max_attempts=3)


class World:
    """What a test does and sees."""

    def __init__(self, plane: PlaneUnderTest, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self.place = (agenttask.GROUP, agenttask.VERSION, namespace, agenttask.PLURAL)

    def create(self, number: int, *, repository: str = "octo/demo", run: int = 1, **spec: Any) -> str:
        """Label an issue: the AgentTask as the receiver makes it; its name."""
        body = task_body(number, repository=repository, run=run)
        body["spec"].update(spec)
        self.plane.custom.create_namespaced_custom_object(*self.place, body, _request_timeout=60)
        return str(body["metadata"]["name"])

    def task(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.plane.custom.get_namespaced_custom_object(
            *self.place, name, _request_timeout=60
        )
        return found

    def tasks(self) -> list[dict[str, Any]]:
        found = self.plane.custom.list_namespaced_custom_object(*self.place, _request_timeout=20)
        return list(found["items"])

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.task(name).get("status") or {})

    def patch(self, name: str, **spec: Any) -> None:
        self.plane.custom.patch_namespaced_custom_object(
            *self.place, name, {"spec": spec}, _request_timeout=60
        )

    def answer(self, name: str) -> None:
        """The reporter has read the item, and the run answers its label."""
        body = {"metadata": {"annotations": {agenttask.ANNOTATION_ANSWERED: "1"}}}
        self.plane.custom.patch_namespaced_custom_object(*self.place, name, body, _request_timeout=60)

    def patch_status(self, name: str, status: Any) -> None:
        self.plane.custom.patch_namespaced_custom_object_status(
            *self.place, name, {"status": status}, _request_timeout=60
        )

    def jobs(self) -> dict[str, Any]:
        """The Jobs that are not being deleted, by name."""
        found = self.plane.batch.list_namespaced_job(self.namespace, _request_timeout=60)
        return {job.metadata.name: job for job in found.items if job.metadata.deletion_timestamp is None}

    def events(self, name: str) -> list[str]:
        found = self.plane.core.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.name={name}", _request_timeout=60
        )
        ordered = sorted(found.items, key=lambda e: int(e.metadata.resource_version))
        return [event.reason for event in ordered]

    def until_phase(self, name: str, phase: str, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Wait until a task is in the phase; its status."""

        def there() -> dict[str, Any] | None:
            status = self.status(name)
            return status if status.get("phase") == phase else None

        return self.until(f"{name} {phase}", there, timeout)

    def until(self, what: str, condition: Callable[[], _T | None], timeout: float = TIMEOUT_S) -> _T:
        """`until`, whose message also shows what became of the tasks."""

        def shown() -> str:
            return f"{what}, with the tasks {[task.get('status', {}).get('phase') for task in self.tasks()]}"

        return until(shown, condition, timeout=timeout)
