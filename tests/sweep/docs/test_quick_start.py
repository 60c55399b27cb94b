"""The quick start on a real node, with the commands of its page: from a token to a pull request."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from coding_agent_docs.blocks import blocks
from coding_agent_docs.paths import ROOT
from coding_agent_testbed.cluster import build
from coding_agent_testbed.until import until

from tests.chart.place import Place, node_values, place
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT, BOT_TOKEN, DONE, MODEL_KEY, REPOSITORY
from tests.fixtures.system_in_pods import SMALL
from tests.integration.main_job.scripts import fixes_the_bug
from tests.sweep.docs.played import QUICK_START_ON_A_NODE
from tests.sweep.docs.shell import Shell

# Time for images that may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]
FIVE_MINUTES = 300.0


def test_from_a_token_to_a_pull_request_within_five_minutes(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    enforced_policies: None,
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    """The person has a values file with what is theirs: where the images are, and little room on the node."""
    world = place(stack, cluster, namespace, project_images, tmp_path, "github", fixes_the_bug())
    file = tmp_path / "coding-agent-values.yaml"
    own = {**node_values(project_images), "config": {"operator": {"job": SMALL}}}
    file.write_text(yaml.safe_dump(own), encoding="utf-8")
    for name, path in build.binaries(["helm", "kubectl"]).items():
        (tmp_path / name).symlink_to(path)
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    theirs = f"-n {namespace} --api-url {world.forge.api_url} --model-url {world.model.base_url}"
    shell = Shell(
        tmp_path,
        here={
            "kubectl agenttask init": f"kubectl agenttask init {theirs}",
            "--repo acme/pricing": f"--repo {REPOSITORY}",
            "--model gpt-4o \\\n  --registry registry.example.com": "--model scripted",
            "-n coding-agent": f"-n {namespace}",
            "--namespace coding-agent": f"--namespace {namespace}",
        },
        environment={
            "KUBECONFIG": str(cluster.kubeconfig),
            "GITHUB_PERSONAL_ACCESS_TOKEN": BOT_TOKEN,
            "OPENAI_API_KEY": MODEL_KEY,
        },
        directory=tmp_path,
        seconds=300,
    )
    page, settings = QUICK_START_ON_A_NODE
    steps = blocks(page)
    labels = next(at for at, block in enumerate(steps) if block.text.startswith("kubectl agenttask list"))

    start = time.monotonic()
    assert shell.play(steps[:labels], *settings) == 2
    world.forge.add_label(REPOSITORY, 1, BOT)
    until(f"a pull request and the label {DONE}", lambda: done(world), timeout=FIVE_MINUTES, interval=0.5)
    took = time.monotonic() - start
    assert shell.play(steps[labels:], *settings) == 2
    *checks, total = shell.printed.splitlines()
    # What `init` cannot know without storage and a webhook is off, and said to be.
    assert {line.split()[0] for line in checks} == {"ok", "off"}, shell.printed
    assert total == f"{len(checks)} checks. Nothing is wrong."
    assert took < FIVE_MINUTES
    print(f"from init to the pull request: {took:.0f} s")


def done(world: Place) -> bool:
    return len(world.changes()) == 1 and DONE in world.labels()
