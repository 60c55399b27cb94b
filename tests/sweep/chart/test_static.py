"""Manifests are what Kubernetes and good practice want, for every values file of charts/coding-agent/ci."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import schemas
from tests.chart.helm import CHART, VALUES_FILES, helm, one, render, render_text
from tests.integration.chart.conftest import Tool

# Time for the tools, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

ACCEPTED = {
    # Tags are not moved; a pull at every start would make the registry a part of each attempt's success.
    "container-image-pull-policy",
    # The operator makes the pods that the attempts' policy selects.
    "networkpolicy-targets-pod",
    # Squid has one port; readiness asks it more often than liveness.
    "pod-probes-identical",
}
"""Critical findings of kube-score that are accepted, each with its reason."""


def test_helm_lint_is_silent() -> None:
    for values in ((), *(("--values", str(file)) for file in VALUES_FILES)):
        # Helm logs each symbolic link that it follows; those are not findings.
        found = helm("lint", "--strict", str(CHART), *values)
        assert "0 chart(s) failed" in found
        assert not values or "[WARNING]" not in found, found


def test_every_suite_of_helm_unittest_passes(tool: Tool) -> None:
    said = tool("helm-unittest", "--strict", str(CHART))
    assert "Charts:      1 passed, 1 total" in said


def test_every_template_has_a_suite() -> None:
    suites = [yaml.safe_load(file.read_text()) for file in (CHART / "tests").glob("*_test.yaml")]
    covered = {template for suite in suites for template in suite["templates"]}
    templates = {
        str(file.relative_to(CHART / "templates"))
        for file in (CHART / "templates").rglob("*")
        if file.is_file() and not file.name.startswith("_")
    }
    assert covered == templates


def test_kubeconform_finds_no_wrong_or_unknown_field(tool: Tool, kind_schemas: Path) -> None:
    # A CustomResourceDefinition holds a schema itself; an API server takes it in the other tests.
    strict = ("kubeconform", "-strict", "-summary", "-skip", "CustomResourceDefinition")
    where = ("-schema-location", f"{kind_schemas}/{schemas.LOCATION}")
    for file in VALUES_FILES:
        assert "Invalid: 0, Errors: 0" in tool(*strict, *where, stdin=render_text(file)), file.name
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    with pytest.raises(AssertionError, match="additional"):
        tool(*strict, *where, stdin=yaml.safe_dump(wrong))


@pytest.mark.parametrize("name", ["required", "everything", "gitlab"])
def test_kube_score_has_no_critical_finding_that_is_not_accepted(tool: Tool, name: str) -> None:
    ignored = [item for entry in sorted(ACCEPTED) for item in ("--ignore-test", entry)]
    tool(
        *("kube-score", "score", "--kubernetes-version", "v1.31", "--output-format", "ci"),
        # A limit of CPU throttles pods on idle nodes; requests are what scheduling needs.
        "--ignore-container-cpu-limit",
        *ignored,
        "-",
        stdin=render_text(CHART / "ci" / f"{name}-values.yaml"),
    )


def test_the_readme_is_what_helm_docs_makes(tool: Tool, tmp_path: Path) -> None:
    copy = tmp_path / "coding-agent"
    copy.mkdir()
    for name in ("Chart.yaml", "values.yaml", "README.md.gotmpl"):
        shutil.copy(CHART / name, copy)
    tool("helm-docs", "--sort-values-order", "file", "--chart-search-root", str(copy))
    readme = (copy / "README.md").read_text()
    assert readme == (CHART / "README.md").read_text(), "run helm-docs in charts/coding-agent (see Makefile)"
    undocumented = [line for line in readme.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert undocumented == []


def test_a_packaged_chart_carries_what_the_links_point_to(tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))
    package = next(tmp_path.glob("*.tgz"))
    values = CHART / "ci" / "required-values.yaml"
    text = helm("template", "coding-agent", str(package), "--values", str(values))
    objects = [found for found in yaml.safe_load_all(text) if found]
    rules = {
        object_["metadata"]["name"]: object_["rules"] for object_ in objects if object_["kind"] == "Role"
    }
    root = CHART.parents[1]
    for program, source in {
        "receiver": "receiver/deploy/role.yaml",
        "operator": "operator/deploy/role.yaml",
        "reporter": "operator/deploy/reporter-role.yaml",
    }.items():
        documents = yaml.safe_load_all((root / source).read_text())
        assert rules[f"coding-agent-{program}"] == next(d["rules"] for d in documents if d["kind"] == "Role")
    crd = one(objects, "CustomResourceDefinition", "agenttasks.coding-agent.dev")
    assert crd["spec"] == yaml.safe_load((root / "crds" / "agenttask.yaml").read_text())["spec"]


def test_nothing_but_the_schema_its_roles_and_policies_belongs_to_the_whole_cluster() -> None:
    objects = render(CHART / "ci" / "everything-values.yaml", namespace="elsewhere")
    outside = [object_ for object_ in objects if object_["metadata"].get("namespace") != "elsewhere"]
    roles = {entry["metadata"]["name"] for entry in outside if entry["kind"] == "ClusterRole"}
    policies = {entry["metadata"]["name"] for entry in outside if "AdmissionPolicy" in entry["kind"]}
    assert all(name.startswith("elsewhere-") for name in roles | policies), (
        "those of two releases do not meet"
    )
    kinds = {found["kind"] for found in outside}
    assert kinds == {
        "ClusterRole",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ConfigMap",
    }, "the ConfigMap is `extraObjects`'"


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The spec of every pod that the manifests make, by the name of what makes it."""
    found = {}
    for object_ in objects:
        spec = object_.get("spec", {})
        if object_["kind"] == "Pod":
            found[object_["metadata"]["name"]] = spec
        elif object_["kind"] == "CronJob":
            found[object_["metadata"]["name"]] = spec["jobTemplate"]["spec"]["template"]["spec"]
        elif "template" in spec:
            found[object_["metadata"]["name"]] = spec["template"]["spec"]
    return found


def mounted_secrets(pod: dict[str, Any]) -> set[str]:
    sources = [s for v in pod["volumes"] for s in v.get("projected", {}).get("sources", [])]
    return {
        source["secret"]["name"].removeprefix("coding-agent-") for source in sources if "secret" in source
    }


def component_of(name: str) -> str:
    """Return the component of a workload; the name of the check of the settings ends with a hash of them."""
    short = name.removeprefix("coding-agent-")
    return "check" if short.startswith("check-") else short


def test_with_an_app_only_the_token_service_mounts_its_key_and_nobody_a_token() -> None:
    found = pods(render(CHART / "ci" / "app-values.yaml"))
    assert {component_of(name): mounted_secrets(pod) for name, pod in found.items()} == {
        "check": set(),
        "receiver": {"webhook"},
        "operator": {"egress", "tokens"},
        "egress": {"egress"},
        "tokens": {"tokens", "key-of-the-app"},
        "reporter": {"comments"},
        "poller-github": set(),
        "selftest": {"webhook"},
    }


def test_every_pod_is_restricted_and_mounts_only_what_it_may() -> None:
    found = pods(render(CHART / "ci" / "everything-values.yaml"))
    mounted = {}
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["enableServiceLinks"] is False, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "envFrom" not in container, name
            assert not [e for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})], name
        mounted[component_of(name)] = mounted_secrets(pod)
    assert mounted == {
        "check": set(),
        "receiver": {"webhook"},
        "operator": {"egress"},
        "egress": {"egress"},
        "reporter": {"comments", "github", "gitlab"},
        "poller-github": {"github"},
        "poller-gitlab": {"gitlab"},
        "user-config": {"user-config"},
        "selftest": {"webhook"},
    }
