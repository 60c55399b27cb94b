"""A namespace for AgentTasks, the receiver's own account in it, and receivers as processes."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.task import agenttask

from tests.fixtures import accounts
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.deliveries import PATIENT, SECRET, TOKEN
from tests.fixtures.preloaded import start_main
from tests.fixtures.system import Program

ACCOUNT = "coding-agent-receiver"


@dataclass
class Place:
    """A namespace."""

    plane: PlaneUnderTest
    namespace: str
    folder: Path

    def account(self, server: str | None = None) -> Path:
        """A kubeconfig of the receiver's account: it has what `receiver/deploy/role.yaml` gives, no more."""
        return accounts.account(self.plane, "receiver/deploy/role.yaml", self.namespace, self.folder, server)

    def start_receiver(self, kubeconfig: Path, *, forge: Any = None, **webhook: Any) -> Program:
        """`main.py --mode webhook` as it runs in the cluster, but on a free loopback port.

        Args:
            forge: further sections of the settings.
            webhook: further keys of the section `webhook`.
        """
        name = f"receiver-{os.urandom(3).hex()}"
        config = self.folder / f"{name}.yaml"
        section = {
            "server": {"host": "127.0.0.1", "port": 0},
            "github": {"secret": SECRET},
            "gitlab": {"token": TOKEN},
            **webhook,
        }
        config.write_text(yaml.safe_dump({"webhook": section, "development": PATIENT, **(forge or {})}))
        log = self.folder / f"{name}.log"
        process = start_main(
            ["--config", str(config), "--mode", "webhook"],
            cwd=self.folder,
            log=log,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment(kubeconfig)},
        )
        return Program(process, log)

    def environment(self, kubeconfig: Path) -> dict[str, str]:
        """What makes a program use this namespace."""
        return {"QUEUE_BACKEND": "kubernetes", "POD_NAMESPACE": self.namespace, "KUBECONFIG": str(kubeconfig)}

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The AgentTasks by name."""
        found = self.plane.custom.list_namespaced_custom_object(*self._where, _request_timeout=20)
        return {item["metadata"]["name"]: item for item in found["items"]}

    def task(self, name: str) -> dict[str, Any]:
        """One AgentTask."""
        return self.tasks()[name]

    def create(self, body: dict[str, Any]) -> None:
        """A person writes an AgentTask."""
        self.plane.custom.create_namespaced_custom_object(*self._where, body, _request_timeout=20)

    def end(self, name: str, succeeded: bool, **conditions: str) -> None:
        """The task ends, as the operator and the reporter write it down."""
        self.set_conditions(name, Succeeded=str(succeeded), LabelsShown="True", **conditions)
        self.patch_status(name, {"phase": "Succeeded" if succeeded else "Failed"})

    def set_conditions(self, name: str, **conditions: str) -> None:
        """Set the task's conditions through its status subresource."""
        now = datetime.now(UTC).isoformat()
        status = [
            {"type": kind, "status": is_, "reason": "Test", "lastTransitionTime": now}
            for kind, is_ in conditions.items()
        ]
        self.patch_status(name, {"conditions": status})

    def patch_status(self, name: str, status: dict[str, Any]) -> None:
        """Change the task's status, as a program does."""
        self.plane.custom.patch_namespaced_custom_object_status(
            *self._where, name, {"status": status}, _request_timeout=60
        )

    def cancel(self, name: str) -> None:
        """Someone else cancels the task."""
        self.patch(name, {"spec": {"cancel": True}})

    def patch(self, name: str, body: dict[str, Any]) -> None:
        """Someone else changes the task."""
        self.plane.custom.patch_namespaced_custom_object(*self._where, name, body, _request_timeout=60)

    def read_item(self, name: str) -> None:
        """The reporter has read the run's item, as a label or a removal asked."""
        self.patch(name, {"metadata": {"annotations": {agenttask.ANNOTATION_RESCAN: None}}})

    def delete(self, name: str) -> None:
        """A person deletes an AgentTask."""
        self.plane.custom.delete_namespaced_custom_object(*self._where, name, _request_timeout=20)

    @property
    def _where(self) -> tuple[str, str, str, str]:
        return agenttask.GROUP, agenttask.VERSION, self.namespace, agenttask.PLURAL
