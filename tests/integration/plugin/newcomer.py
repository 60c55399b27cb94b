"""A person with a cluster, a forge and a model, who installs the agent."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.model import ModelServer
from coding_agent_testbed.until import until

from tests.chart.release import Release
from tests.fixtures.forge import BOT_TOKEN, REPOSITORY
from tests.fixtures.model import API_KEY
from tests.integration.core_kubernetes.place import Place

if TYPE_CHECKING:
    from tests.integration.plugin.conftest import Plugin, Said

BOT = "coding-agent-bot"
VARIABLES = {"github": "GITHUB_PERSONAL_ACCESS_TOKEN", "gitlab": "GITLAB_PERSONAL_ACCESS_TOKEN"}
LIMIT = {"_request_timeout": 60}
# Other releases of the run have the CRD and the cluster-wide policies.
SHARED = {"crds": {"install": False}, "admissionPolicies": {"enabled": False}}
RUNNING = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


@dataclass
class Newcomer:
    """A person with a cluster, a forge, a model, and nothing installed."""

    place: Place
    plugin: Plugin
    forge: ForgeServer
    model: ModelServer
    monkeypatch: pytest.MonkeyPatch

    @property
    def values_file(self) -> Path:
        return self.place.folder / "values.yaml"

    @property
    def values(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.values_file.read_text()))

    def has(self, token: str = BOT_TOKEN, key: str = API_KEY) -> None:
        """Put token and key into the environment; empty removes them."""
        for name, value in ((VARIABLES[self.forge.flavour.value], token), ("OPENAI_API_KEY", key)):
            if value:
                self.monkeypatch.setenv(name, value)
            else:
                self.monkeypatch.delenv(name, raising=False)

    def init(self, *more: str, status: int = 0) -> Said:
        arguments = ["--platform", self.forge.flavour.value, "--api-url", self.forge.api_url]
        arguments += ["--repo", REPOSITORY, "--provider", "openai", "--model", "scripted"]
        arguments += ["--model-url", self.model.base_url, "--values", str(self.values_file)]
        return self.plugin("init", *arguments, *more, status=status)

    def secret(self, name: str) -> dict[str, str]:
        found = self.place.plane.core.read_namespaced_secret(name, self.place.namespace, **LIMIT)
        return {key: base64.b64decode(value).decode() for key, value in found.data.items()}

    def secrets(self) -> set[str]:
        found = self.place.plane.core.list_namespaced_secret(self.place.namespace, **LIMIT).items
        return {one.metadata.name for one in found}

    def write_secret(self, name: str, **values: str) -> None:
        """Change a Secret, as a person does with kubectl."""
        body = {"stringData": values}
        self.place.plane.core.patch_namespaced_secret(name, self.place.namespace, body, **LIMIT)

    def delete_secret(self, name: str) -> None:
        self.place.plane.core.delete_namespaced_secret(name, self.place.namespace, **LIMIT)

    def labels(self) -> list[str]:
        return [label.name for label in self.forge.repository(REPOSITORY).labels]


def install_release(place: Place, values: dict[str, Any]) -> Release:
    """Install the chart with the values that `init` wrote."""
    release = Release(place.plane, place.namespace, values | SHARED)
    release.install()
    return release


def _is_rolled_out(deployment: Any) -> bool:
    """Whether only pods of what was last written are left and ready, as `kubectl rollout status` asks.

    Just after an upgrade the status is that of before, and `readyReplicas` counts pods of before too.
    """
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    current = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    counts = ("replicas", "updatedReplicas", "readyReplicas")
    return current and all(status.get(key, 0) == wanted for key in counts)


def let_pods_run(place: Place) -> None:
    """There is no node: say of every pod what a kubelet would say, until the Deployments are ready."""

    def ready() -> bool:
        for pod in place.plane.core.list_namespaced_pod(place.namespace, **LIMIT).items:
            if pod.status.phase != "Running":
                place.plane.core.patch_namespaced_pod_status(
                    pod.metadata.name, place.namespace, {"status": RUNNING}, **LIMIT
                )
        return all(map(_is_rolled_out, place.plane.get("-n", place.namespace, "deployments")["items"]))

    until("the Deployments are ready", ready)
