"""The manifests in docs/examples are what Argo CD and Flux take; their values are what the chart takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_testbed.cluster.access import KubectlError
from coding_agent_testbed.cluster.gomod import module_source
from coding_agent_testbed.cluster.parts import MODULES

from tests.chart import schemas
from tests.chart.helm import CHART, objects_of, one, render_text
from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.chart.conftest import Tool

# Time for the tools, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

EXAMPLES = CHART.parents[1] / "docs" / "examples"
ARGO_CD, FLUX = EXAMPLES / "argo-cd" / "application.yaml", EXAMPLES / "flux" / "release.yaml"
CRDS = {
    "argo-cd": "manifests/crds/application-crd.yaml",
    "flux-helm-controller": "config/crd/bases/helm.toolkit.fluxcd.io_helmreleases.yaml",
    "flux-source-controller": "config/crd/bases/source.toolkit.fluxcd.io_ocirepositories.yaml",
}


def values_of(example: Path) -> dict[str, Any]:
    """The values that a manifest gives to the chart."""
    objects = objects_of(example.read_text())
    found: dict[str, Any]
    if example == ARGO_CD:
        found = one(objects, "Application", "coding-agent")["spec"]["source"]["helm"]["valuesObject"]
    else:
        found = one(objects, "HelmRelease", "coding-agent")["spec"]["values"]
    return found


@pytest.fixture(scope="module")
def vendors_crds(control_plane: PlaneUnderTest) -> Iterator[PlaneUnderTest]:
    """The API server with the CustomResourceDefinitions that Argo CD and Flux install."""
    files = [str(module_source(MODULES[module]) / file) for module, file in CRDS.items()]
    arguments = [argument for file in files for argument in ("--filename", file)]
    control_plane.kubectl("apply", "--server-side", *arguments)
    definitions = [entry for file in files for entry in objects_of(Path(file).read_text())]
    control_plane.wait_until_established(*(entry["metadata"]["name"] for entry in definitions))
    yield control_plane
    control_plane.kubectl("delete", "--wait=false", *arguments)


@pytest.mark.parametrize("example", [ARGO_CD, FLUX], ids=lambda file: file.parent.name)
def test_the_api_server_takes_every_field(
    vendors_crds: PlaneUnderTest, namespace: str, example: Path
) -> None:
    there = [object_ for object_ in objects_of(example.read_text()) if object_["kind"] != "Namespace"]
    for object_ in there:
        object_["metadata"]["namespace"] = namespace
        object_["metadata"].pop("finalizers", None)  # no controller would remove them
    apply = ("apply", "--server-side", "--validate=strict", "--filename", "-")
    vendors_crds.kubectl(*apply, stdin=yaml.safe_dump_all(there))
    wrong = {**there[-1], "spec": {**there[-1]["spec"], "valuez": {}}}
    with pytest.raises(KubectlError, match="valuez"):
        vendors_crds.kubectl(*apply, stdin=yaml.safe_dump(wrong))


@pytest.mark.parametrize("example", [ARGO_CD, FLUX], ids=lambda file: file.parent.name)
def test_the_chart_takes_the_values_and_generates_no_secret(
    example: Path, tool: Tool, kind_schemas: Path
) -> None:
    text = render_text(values=values_of(example), namespace="coding-agent")
    objects = objects_of(text)
    assert [entry["metadata"]["name"] for entry in objects if entry["kind"] == "Secret"] == []
    assert one(objects, "Deployment", "coding-agent-operator")["spec"]["replicas"] == 2
    where = ("-schema-location", f"{kind_schemas}/{schemas.LOCATION}")
    strict = ("kubeconform", "-strict", "-summary", "-skip", "CustomResourceDefinition")
    assert "Invalid: 0, Errors: 0" in tool(*strict, *where, stdin=text)
