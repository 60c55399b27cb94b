"""After the pull request, on a real node: one release serves both forges, and a CLI agent beside our own.

The stories are told at the same time: a check fails, a person comments on a line, and the change is merged.
`SCREENSHOTS=FOLDER` writes pictures of the changes' pages for the documents.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_cluster import images
from coding_agent_cluster.commands import run
from coding_agent_forge.server import ForgeServer
from coding_agent_model.script import Call, Turn

from tests.chart.edge import Edge, forwarder
from tests.chart.place import DENY_ALL, place
from tests.chart.round_story import FILE, ROUNDS, VERIFY, RoundStory, scripts
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT_TOKEN, REPOSITORY, SECRET, sample_repository
from tests.fixtures.system_in_pods import SMALL_CONTAINERS, host_address
from tests.integration.main_job.scripts import finish, write

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

RUNNER = "codex"
BY_PROGRAM = f"acme/{RUNNER}"


def with_tools(text: str, summary: str) -> tuple[Turn, ...]:
    """What our own agent's model says."""
    return write(FILE, f"{text}\n"), finish(summary)


def with_shell(text: str, summary: str) -> tuple[Turn, ...]:
    """What a program's model says."""
    return Turn(calls=(Call(run=f"echo {text} > {FILE}"),)), Turn(text=summary)


def test_a_failed_check_and_a_review_lead_to_a_merge(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    enforced_policies: None,
    edge: Edge,
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    seed = sample_repository()
    [sample] = seed["repositories"]
    both = seed | {"repositories": [sample, sample | {"name": RUNNER}]}
    told = [*scripts(REPOSITORY, with_tools), *scripts(BY_PROGRAM, with_shell)]
    world = place(stack, cluster, namespace, project_images, tmp_path, "github", told, seed=both)
    release = world.release
    gitlab = stack.enter_context(
        ForgeServer("gitlab", sample_repository(), tmp_path / "gitlab", host=host_address(cluster))
    )
    release.kubectl("apply", "-f", "-", stdin=json.dumps(DENY_ALL))
    edge.provide(release)
    agent, workspace = SMALL_CONTAINERS
    larger = {"resources": workspace["resources"] | {"limits": {"memory": "1Gi"}}}
    values: dict[str, Any] = {
        **edge.values(),
        "secrets": {"webhook": {"gitlab": SECRET}, "gitlab": {"token": BOT_TOKEN}},
        "networkPolicy": {"forge": {"ports": [world.forge.port, gitlab.port]}},
        "config": {
            "gitlab": {"api_url": gitlab.api_url},
            "rounds": ROUNDS,
            "verify": VERIFY,
            "limits": {"global": 3},
            "consumer": {"runners": {BY_PROGRAM: RUNNER}},
            "operator": {
                "job": {
                    "workspace": {"images": {BY_PROGRAM: cluster.provide(images.runner_image(RUNNER))}},
                    "pod_template": {"spec": {"containers": [agent, workspace | larger]}},
                }
            },
        },
    }
    release.install(values, "--wait", "--timeout", "240s")
    edge.wait()
    hook = stack.enter_context(forwarder(edge))
    stories = [RoundStory(world.forge, name, release.tasks) for name in (REPOSITORY, BY_PROGRAM)]
    stories.append(RoundStory(gitlab, REPOSITORY, release.tasks))
    for story in stories:
        story.forge.sandbox.mergeability_lag = 0
        flavour = story.forge.flavour.value
        story.forge.add_hook(story.repository, f"{hook}/webhook/{flavour}", SECRET)
    with ThreadPoolExecutor(len(stories)) as pool:
        list(pool.map(RoundStory.play, stories))
    for story in stories:
        story.see_that_it_ended()
    for story in stories if "SCREENSHOTS" in os.environ else []:
        picture = Path(os.environ["SCREENSHOTS"]) / f"{story.forge.flavour.value}-{story.repository[5:]}.png"
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        run([*browser, "--window-size=1100,1600", f"--screenshot={picture}", story.page])
