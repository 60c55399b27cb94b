"""A GitHub App through the chart: a label becomes a pull request, and one pod alone has the private key."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.until import until

from tests.chart.place import Place, place
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.github_app import create_app, install, key_pair
from tests.fixtures.system import BOT, DONE, over
from tests.integration.main_job.scripts import finish, run, script

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

WAITS = "echo text > notes.md; touch /tmp/started; until [ -f /tmp/go ]; do sleep 0.2; done"
HUNT = """
import os, stat, sys
words = {name: word[::-1].encode() for name, word in (one.split("=") for one in sys.argv[1:])}
def look(path):
    try:
        with open(path, "rb") as file:
            data = file.read(20_000_000)
    except OSError:
        return
    for name, word in words.items():
        if word in data:
            print(name, path)
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
    for name in files:
        path = os.path.join(folder, name)
        try:
            if stat.S_ISREG(os.stat(path).st_mode):
                look(path)
        except OSError:
            pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) != os.getpid():
        look(f"/proc/{pid}/environ")
        look(f"/proc/{pid}/cmdline")
print("hunted")
"""


def running(world: Place) -> list[tuple[str, str]]:
    """The pods and containers that run now."""
    return [
        (pod["metadata"]["name"], status["name"])
        for pod in world.release.get("pods")["items"]
        for status in (
            *pod["status"].get("initContainerStatuses", []),
            *pod["status"].get("containerStatuses", []),
        )
        if "running" in status["state"]
    ]


def end_polling(world: Place) -> None:
    """Have the forge polled no more, and wait for the last poll: its pod could go while we look into it."""
    poller = "cronjob/coding-agent-poller-github"
    world.release.kubectl("patch", poller, "--patch", json.dumps({"spec": {"suspend": True}}))

    def ended() -> bool:
        pods = world.release.get("pods", "-l", "app.kubernetes.io/component=poller")["items"]
        is_over = all(pod["status"].get("phase") in ("Succeeded", "Failed") for pod in pods)
        return is_over and not world.release.get(poller)["status"].get("active")

    until("the end of the last poll", ended, timeout=240, interval=0.5)


def find(world: Place, words: dict[str, str]) -> dict[tuple[str, str], list[str]]:
    """The words that were found in the files and processes of each container."""
    given = [f"{name}={word[::-1]}" for name, word in words.items()]  # or it would find itself
    found = {}
    for pod, container in running(world):
        python = ("python", "-c", HUNT, *given)
        printed = world.release.kubectl("exec", pod, "-c", container, "--", *python).splitlines()
        assert printed[-1] == "hunted"
        found[pod, container] = printed[:-1]
    return found


def workspace_of(world: Place) -> str:
    """The attempt's pod, as soon as the model's command runs in it."""

    def there() -> str:
        names = [pod for pod, container in running(world) if container == "workspace"]
        return next((name for name in names if has_started(world, name)), "")

    return str(until("the model's command", there, timeout=400, interval=1))


def has_started(world: Place, pod: str) -> bool:
    shell = "test -f /tmp/started && echo yes || true"
    return "yes" in world.release.kubectl("exec", pod, "-c", "workspace", "--", "sh", "-c", shell)


def test_an_app_opens_the_pull_request_and_its_key_is_in_one_pod(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    scripts = script(run(WAITS), finish("Added notes."))
    world = place(stack, cluster, namespace, project_images, tmp_path, "github", scripts)
    app = create_app(world.forge)
    install(world.forge, app)
    private = key_pair()[0]
    values: dict[str, Any] = {
        "secrets": {"github": {"token": ""}, "githubApp": {"privateKey": private}},
        "config": {"github": {"owner": "acme", "account": "coding-agent[bot]", "app": {"app_id": app.id}}},
        "polling": {"enabled": True, "schedule": "* * * * *"},
        "tokens": {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}},
    }
    world.release.values = over(world.release.values, values)
    world.release.install(None, "--wait", "--timeout", "240s")
    world.forge.add_label("acme/pricing", 1, BOT)

    attempt = workspace_of(world)
    end_polling(world)
    line = private.splitlines()[5]
    tokens = [one.token for one in world.forge.sandbox.store.apps.actors() if one.token]
    assert tokens
    words = {"key": line, **{f"token{number}": token for number, token in enumerate(tokens)}}
    found = find(world, words)
    holders = {pod for (pod, _), lines in found.items() for each in lines if each.startswith("key ")}
    assert len(holders) == 1
    assert next(iter(holders)).startswith("coding-agent-tokens-")
    assert [each for lines in found.values() for each in lines if each.startswith("token")] == []
    world.release.kubectl("exec", attempt, "-c", "workspace", "--", "touch", "/tmp/go")

    until("the label", lambda: DONE in world.labels(), timeout=270, interval=0.5)
    [change] = world.changes()
    assert change.author.login == "coding-agent[bot]"
    pods = [pod["metadata"]["name"] for pod in world.release.get("pods")["items"]]
    texts = [world.release.kubectl("logs", pod, "--all-containers") for pod in pods]
    texts.append(json.dumps(world.release.get("configmaps,deployments,jobs,pods,agenttasks")))
    for word in words.values():
        assert not any(word in text for text in texts)
