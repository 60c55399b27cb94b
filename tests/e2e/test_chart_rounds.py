"""After the pull request, on a real node: one release serves all forges, and a CLI agent beside our own.

The stories are told at the same time: a check fails, a person comments on a line, and the change is merged.
GitHub and GitLab are sandboxes, and Gitea is real: there people also see the position in the queue and remove
a label. `SCREENSHOTS=FOLDER` writes pictures of pages for the documents.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.cluster import images
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.script import Call, Turn

from tests.chart import gitea_story
from tests.chart.discount import Step
from tests.chart.edge import Edge, forwarder
from tests.chart.gitea_story import GiteaStory
from tests.chart.place import DENY_ALL, place
from tests.chart.round_story import ROUNDS, VERIFY, RoundStory, scripts
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT_TOKEN, REPOSITORY, SECRET, sample_repository
from tests.fixtures.system_in_pods import SMALL_CONTAINERS, host_address
from tests.integration.main_job.scripts import finish
from tests.integration.main_job.scripts import run as run_command

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

RUNNER = "codex"
BY_PROGRAM = f"acme/{RUNNER}"


def with_tools(step: Step) -> tuple[Turn, ...]:
    """What our own agent's model says."""
    return run_command(step.command), finish(step.summary)


def with_shell(step: Step) -> tuple[Turn, ...]:
    """What a program's model says."""
    return Turn(calls=(Call(run=step.command),)), Turn(text=step.summary)


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
    told = [*gitea_story.scripts(), *scripts(REPOSITORY, with_tools), *scripts(BY_PROGRAM, with_shell)]
    world = place(stack, cluster, namespace, project_images, tmp_path, "github", told, seed=both)
    release = world.release
    gitlab = stack.enter_context(
        ForgeServer("gitlab", sample_repository(), tmp_path / "gitlab", host=host_address(cluster))
    )
    on_gitea = GiteaStory.begin(stack, release, tmp_path / "gitea", picture)
    release.kubectl("apply", "-f", "-", stdin=json.dumps(DENY_ALL))
    edge.provide(release)
    agent, workspace = SMALL_CONTAINERS
    larger = {"resources": workspace["resources"] | {"limits": {"memory": "1Gi"}}}
    values: dict[str, Any] = {
        **edge.values(),
        "secrets": {
            "webhook": {"gitlab": SECRET, "gitea": SECRET},
            "gitlab": {"token": BOT_TOKEN},
            "gitea": {"token": on_gitea.bot.token},
        },
        "networkPolicy": {"forge": {"ports": [world.forge.port, gitlab.port, on_gitea.server.port]}},
        "config": {
            "gitlab": {"api_url": gitlab.api_url},
            "gitea": {"api_url": on_gitea.server.url, "account": on_gitea.bot.login},
            # Commit statuses of Gitea send nothing that causes a look.
            "rounds": ROUNDS | {"interval": 10},
            "verify": VERIFY,
            "limits": {"global": 4, "overrides": {gitea_story.REPOSITORY: 1}},
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
    sandboxes = [RoundStory(world.forge, name, release.tasks) for name in (REPOSITORY, BY_PROGRAM)]
    sandboxes.append(RoundStory(gitlab, REPOSITORY, release.tasks))
    for story in sandboxes:
        story.forge.sandbox.mergeability_lag = 0
        flavour = story.forge.flavour.value
        story.forge.add_hook(story.repository, f"{hook}/webhook/{flavour}", SECRET)
    on_gitea.add_hook(hook)
    plays = [on_gitea.play, *(story.play for story in sandboxes)]
    with ThreadPoolExecutor(len(plays)) as pool:
        list(pool.map(lambda play: play(), plays))
    on_gitea.see_that_it_ended()
    for story in sandboxes:
        story.see_that_it_ended()
        picture(f"{story.forge.flavour.value}-{story.repository[5:]}", story.page)
    for what, seconds in on_gitea.took.items():
        print(f"Gitea: {what}: {seconds:.1f} s")


def picture(name: str, address: str, height: int = 1600) -> None:
    """Make a picture of a page, if somebody wants pictures; the height is in pixels."""
    if "SCREENSHOTS" in os.environ:
        file = Path(os.environ["SCREENSHOTS"]) / f"{name}.png"
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        run([*browser, f"--window-size=1100,{height}", f"--screenshot={file}", address])
