"""`version`: the versions of the plugin and of what is installed in the cluster, and whether they differ."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from coding_agent_core.task.agenttask import VERSION
from coding_agent_core.task.objects import Metadata

from kubectl_agenttask import DeniedError, PluginError
from kubectl_agenttask.argument_types import OBJECTS
from kubectl_agenttask.findings import Level, definition_findings
from kubectl_agenttask.installation import Installation, component_of
from kubectl_agenttask.output import show_facts
from kubectl_agenttask.session import Session
from kubectl_agenttask.tables import show_table

_CHART = "helm.sh/chart"
_APP = "app.kubernetes.io/version"
_UPGRADE = (
    "upgrade the older one, with `helm upgrade` or `uv tool install --reinstall ./plugin` (docs/kubectl.md)"
)


@dataclass(frozen=True)
class Versions:
    """The versions that are installed.

    Attributes:
        plugin: the version of this plugin, which is that of the release that it comes from.
        kubernetes: the version of the API server.
        crd: the versions of the AgentTask API that the cluster serves, or why they are not known.
        charts: the charts of the release's Deployments, such as `coding-agent-0.1.0`.
        programs: the version of each program of the release, by its component.
        problems: what does not fit together, as sentences.
    """

    plugin: str
    kubernetes: str
    crd: str
    charts: tuple[str, ...]
    programs: Mapping[str, str]
    problems: tuple[str, ...]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The rows of the table."""
        return [
            ("plugin", self.plugin),
            ("Kubernetes", self.kubernetes),
            ("AgentTask CRD", self.crd),
            ("chart", ", ".join(self.charts) or "not installed in this namespace"),
            *sorted(self.programs.items()),
        ]


def versions_of(
    plugin: str,
    kubernetes: str,
    crd: Mapping[str, Any] | DeniedError | None,
    workloads: Iterable[Mapping[str, Any]],
) -> Versions:
    """Compare what is installed. Pure.

    Args:
        crd: the CustomResourceDefinition; `None` if the cluster does not have it, the error if the person may
            not read it.
        workloads: the Deployments of the release.
    """
    labels = {component_of(one): Metadata.of(one).labels for one in workloads}
    programs = {name: own.get(_APP, "unknown") for name, own in labels.items()}
    problems = []
    if crd is None:
        served = "not installed"
        problems.append(
            "the cluster does not have AgentTasks: install the chart, or apply crds/agenttask.yaml"
        )
    elif isinstance(crd, DeniedError):
        served = "you may not read it"
    else:
        served = ", ".join(one["name"] for one in crd["spec"]["versions"] if one.get("served"))
        problems += [one.text for one in definition_findings(crd, VERSION) if one.level is Level.WRONG]
    if other := sorted({one for one in programs.values() if one != plugin}):
        problems.append(f"the plugin is {plugin} and the release is {', '.join(other)}: {_UPGRADE}")
    charts = tuple(sorted({own[_CHART] for own in labels.values() if _CHART in own}))
    return Versions(plugin, kubernetes, served, charts, programs, tuple(problems))


def show_versions(session: Session, arguments: Namespace) -> None:
    """`version`: print the versions, and warn of a plugin, chart, CRD or program that does not match."""
    installation = Installation(session.cluster)
    own = version("kubectl-agenttask")
    try:
        kubernetes, workloads = installation.kubernetes_version(), installation.deployments()
    except PluginError:
        # Without a cluster, or the rights to read it, the person still sees the version of the plugin.
        session.out.print(f"plugin {own}")
        raise
    crd: Mapping[str, Any] | DeniedError | None
    try:
        crd = installation.definition()
    except DeniedError as error:
        crd = error
    found = versions_of(own, kubernetes, crd, workloads)
    if arguments.output in OBJECTS:
        show_facts(session.out, vars(found) | {"programs": dict(found.programs)}, arguments.output)
    else:
        show_table(session.out, ("WHAT", "VERSION"), found.rows)
    for problem in found.problems:
        session.notes.print(f"warning: {problem}", style="yellow", soft_wrap=True)
