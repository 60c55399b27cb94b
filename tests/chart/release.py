"""A release of the chart in a namespace of a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from coding_agent_testbed.cluster.access import Access, KubectlError
from coding_agent_testbed.until import until

from tests.chart.helm import CHART, helm
from tests.fixtures.system import over

CRD = "agenttasks.coding-agent.dev"


@dataclass
class Release:
    """What a person has who installs it.

    Attributes:
        values: of every install and upgrade; those of a call are laid over them.
        chart: the folder or package to install from.
    """

    cluster: Access
    namespace: str
    values: dict[str, Any] = field(default_factory=dict)
    name: str = "coding-agent"
    chart: Path = CHART

    def install(self, values: Mapping[str, Any] | None = None, *flags: str) -> str:
        """`helm install`; NOTES.txt and what else it prints."""
        return self._apply("install", values, flags)

    def upgrade(self, values: Mapping[str, Any] | None = None, *flags: str) -> str:
        """`helm upgrade`."""
        return self._apply("upgrade", values, flags)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        return helm(
            "--namespace", self.namespace, *arguments, environment=self.cluster.environment(), stdin=stdin
        )

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """`kubectl get`, as data."""
        return self.cluster.get("-n", self.namespace, *arguments)

    def tasks(self) -> list[dict[str, Any]]:
        """The AgentTasks, which the API server refuses to list for a moment after a change of their CRD."""
        [found] = until("the AgentTasks", lambda: [self.get("agenttasks")["items"]], timeout=60)
        return list(found)

    def take_crd(self) -> None:
        """The cluster is shared: hand the CRD over to this release if it is there, as the chart says."""
        take_crd(self.cluster, self.name, self.namespace)

    def _apply(self, verb: str, values: Mapping[str, Any] | None, flags: tuple[str, ...]) -> str:
        if not self.cluster.get("nodes")["items"]:
            flags += ("--no-hooks",)  # nothing could run their pods
        given = yaml.safe_dump(over(self.values, dict(values or {})))
        return self.helm(verb, self.name, str(self.chart), "--values", "-", *flags, stdin=given)


def take_crd(cluster: Access, name: str, namespace: str) -> None:
    """Hand the CRD over to a release, if it is there."""
    notes = (f"meta.helm.sh/release-name={name}", f"meta.helm.sh/release-namespace={namespace}")
    try:
        cluster.kubectl("annotate", "crd", CRD, "--overwrite", *notes)
    except KubectlError as error:
        if "NotFound" not in error.stderr:
            raise
        return
    cluster.kubectl("label", "crd", CRD, "--overwrite", "app.kubernetes.io/managed-by=Helm")
