"""`make try` without a node: it takes the steps of the quick start, and pods are said to be ready."""

from pathlib import Path

import pytest
import yaml
from coding_agent_testbed.cluster import quick_start
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.model.script import load_scripts
from coding_agent_testbed.model.server import ModelServer

from tests.chart.release import take_crd
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.system import BOT, REPOSITORY, ROOT
from tests.sweep.docs.running_pods import RunningPods

# Time for helm, which may have to be built first.
pytestmark = pytest.mark.timeout(900)


def sandbox_seed() -> dict[str, object]:
    """The contents of the sandbox of skaffold.yaml, with its files from this checkout."""
    text = (ROOT / "dev" / "kubernetes" / "forge.yaml").read_text()
    [seed] = [entry["data"] for entry in yaml.safe_load_all(text) if entry["kind"] == "ConfigMap"]
    whole = seed["seed.yaml"].replace("/app/samples", str(ROOT / "dev" / "testbed" / "samples"))
    return dict(yaml.safe_load(whole))


def test_it_takes_the_steps_of_the_quick_start_and_can_be_repeated(
    control_plane: PlaneUnderTest, namespace: str, tmp_path: Path
) -> None:
    take_crd(control_plane, "coding-agent", namespace)
    scripts = load_scripts(ROOT / "dev" / "testbed" / "scripts")
    with (
        RunningPods(control_plane, namespace),
        ForgeServer("github", sandbox_seed(), tmp_path / "repositories") as forge,
        ModelServer(scripts, api_key="sandbox-model-key") as model,
    ):
        at = (forge.base_url, model.base_url.removesuffix("/v1"), tmp_path / "values.yaml")
        for _ in range(2):
            said = quick_start.follow(control_plane, namespace, *at)
            off = [line[9:].split("  ")[0] for line in said.splitlines() if line.startswith("off")]
            assert off == ["transcripts", "commands"], "there is no storage and no webhook"
            assert {line.split()[0] for line in said.splitlines()} == {"ok", "off"}, said
        labeled = [event for event in forge.item(REPOSITORY, 1).events if event.event == "labeled"]
        assert [event.label.name for event in labeled if event.label].count(BOT) == 1
