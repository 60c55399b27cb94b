"""Install, upgrade, roll back, uninstall on a real API server: what stays, what changes, what is refused."""

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, HelmError
from tests.chart.release import CRD, Release
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import older, until_served
from tests.fixtures.system import over
from tests.integration.operator.pod_driver import DONE, RUNS, PodDriver
from tests.integration.operator.world import OperatorProcess, World

# Time for helm, which may have to be built.
pytestmark = pytest.mark.timeout(900)

REQUIRED = yaml.safe_load((CHART / "ci" / "required-values.yaml").read_text())
FIRST = CHART.parents[1] / "tests" / "chart" / "first-values.yaml"
InFlight = Callable[[], AbstractContextManager[None]]
"""While it is entered, a task runs and one waits; at its end, both succeed at their first attempt."""
TAKE_FIELDS = ("--force-conflicts",)
"""Other tests on the same control plane put the CRD there with kubectl."""
TASK = {
    "apiVersion": "coding-agent.dev/v1alpha1",
    "kind": "AgentTask",
    "metadata": {"name": "kept"},
    "spec": {
        "source": {
            "platform": "github",
            "host": "github.com",
            "repository": "acme/pricing",
            "kind": "issue",
            "number": 1,
        },
        "trigger": {"origin": "manual", "receivedAt": "2026-01-02T03:04:05Z"},
    },
}


@pytest.fixture
def release(control_plane: PlaneUnderTest, namespace: str) -> Iterator[Release]:
    """A release that is not installed yet, and has the CRD if it is there."""
    made = Release(control_plane, namespace, REQUIRED)
    made.take_crd()
    yield made
    until_served(control_plane)  # for the tests that follow


def older_chart(folder: Path, crd: dict[str, Any] | None = None) -> Path:
    """The chart as it could have been: its values lack many keys, and its CRD may be an older one."""
    chart = folder / "older"
    shutil.copytree(CHART, chart)  # follows the links
    shutil.copy(FIRST, chart / "values.yaml")
    if crd is not None:
        (chart / "files" / "crds" / "agenttask.yaml").write_text(yaml.safe_dump(crd))
    return chart


def columns(release: Release) -> list[str]:
    crd: dict[str, Any] = release.cluster.get("crd", CRD)
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def webhook_secret(release: Release) -> str:
    data = release.get("secret", "coding-agent-webhook")["data"]["github"]
    return base64.b64decode(data).decode()


def upgrade_as_documented(release: Release, *flags: str) -> None:
    """Without the values files, as an administrator does who wants to change one value."""
    release.helm("upgrade", release.name, str(release.chart), "--no-hooks", *flags)


def apply_rendered(release: Release) -> None:
    """As docs/operations/index.md says for people without a Helm release."""
    values = yaml.safe_dump(release.values)
    arguments = (release.name, str(release.chart), "--values", "-", "--no-hooks")
    rendered = release.helm("template", *arguments, stdin=values)
    assert "helm.sh/hook" not in rendered, "what kubectl would create at once"
    release.kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-", stdin=rendered)


@contextmanager
def one_place(cluster: PlaneUnderTest, namespace: str, folder: Path) -> Iterator[InFlight]:
    """An operator that lets one task run at a time."""
    world = World(cluster, namespace)
    operator = OperatorProcess(cluster.kubeconfig, namespace, folder, {"limits": {"global": 1}})
    numbers = count(1)

    @contextmanager
    def in_flight() -> Iterator[None]:
        pods.script = lambda _: RUNS
        running, waiting = world.create(next(numbers)), world.create(next(numbers))
        world.until_phase(running, "Running")
        world.until_phase(waiting, "Queued")
        yield
        pods.script = lambda _: DONE
        for name in (running, waiting):
            attempts = world.until_phase(name, "Succeeded")["attempts"]
            assert [attempt["outcome"] for attempt in attempts] == ["Succeeded"]

    with PodDriver(cluster, namespace, lambda _: RUNS) as pods:
        operator.start()
        try:
            yield in_flight
        finally:
            operator.stop()


def test_every_documented_upgrade_and_a_rollback_keep_tasks_and_the_webhook_secret(
    release: Release, control_plane: PlaneUnderTest, new_namespace: Callable[[str], str], tmp_path: Path
) -> None:
    newer, release.chart = release.chart, older_chart(tmp_path, older())
    said = release.install(None, *TAKE_FIELDS)
    assert "Cost" not in columns(release)
    until_served(release.cluster)
    release.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(TASK))
    secret = webhook_secret(release)
    assert len(secret) == 48
    [command] = [line for line in said.splitlines() if "get secret" in line]
    arguments = command.split("kubectl ", 1)[1].split(" | ")[0].replace("'", "").split()
    assert base64.b64decode(release.cluster.kubectl(*arguments)).decode() == secret, "as the notes say"

    # The release has accounts of the same names as this operator, and no node on which its own could run.
    with one_place(control_plane, new_namespace("restricted"), tmp_path) as in_flight:
        release.chart = newer
        with in_flight():
            release.upgrade({"receiver": {"podAnnotations": {"round": "2"}}})
            assert "Cost" in columns(release)
        assert [task["metadata"]["name"] for task in release.tasks()] == ["kept"]
        assert webhook_secret(release) == secret

        with in_flight():
            release.helm("rollback", release.name, "1")
            assert "Cost" not in columns(release)
        assert [task["metadata"]["name"] for task in release.tasks()] == ["kept"]
        assert webhook_secret(release) == secret
        pods = release.get("deployment", "coding-agent-receiver")["spec"]["template"]["metadata"]
        assert "round" not in pods["annotations"]

        with in_flight():
            apply_rendered(release)
            assert "Cost" in columns(release)
        assert [task["metadata"]["name"] for task in release.tasks()] == ["kept"]


def test_a_second_release_is_refused_in_the_same_namespace_and_told_whose_the_crd_is_in_another(
    release: Release, new_namespace: Callable[[str], str]
) -> None:
    release.install()
    beside = Release(release.cluster, release.namespace, REQUIRED, name="another")
    with pytest.raises(HelmError, match="the release coding-agent already serves its AgentTasks"):
        beside.install({"crds": {"install": False}})
    release.upgrade()  # itself it does not mind
    # Neither the operator nor the receiver is needed for two comments on one item.
    alone: dict[str, dict[str, Any]] = {
        "reporter": {"operator": {"enabled": False}, "receiver": {"enabled": False}},
        "poller": {
            **{name: {"enabled": False} for name in ("operator", "receiver", "reporter")},
            "polling": {"enabled": True},
            "config": {"github": {"owner": "acme"}},
        },
    }
    for values in alone.values():
        release.upgrade(values)
        with pytest.raises(HelmError, match="the release coding-agent already serves its AgentTasks"):
            beside.install({"crds": {"install": False}})
    release.upgrade()
    second = Release(release.cluster, new_namespace("restricted"), REQUIRED)
    with pytest.raises(HelmError, match=f"belongs to release coding-agent in namespace {release.namespace}"):
        second.install()
    second.install({"crds": {"install": False}})
    assert second.get("deployment", "coding-agent-receiver")
    second.helm("uninstall", second.name)
    assert release.get("deployment", "coding-agent-receiver"), "the first is still whole"
    assert "Cost" in columns(release)


GENERATED = {
    "coding-agent-webhook": ("github", "gitlab"),
    "coding-agent-user-config": ("api-key",),
    "coding-agent-egress": ("key",),
    "coding-agent-tokens": ("key",),
}
"""Secrets whose values the chart makes up when nobody gives them, and their keys."""
ALL_SECRETS: dict[str, Any] = {
    "secrets": {"github": {"token": ""}, "gitlab": {"token": "glpat-example"}},
    "config": {"github": {"app": {"app_id": 7}}, "gitlab": {"group_id": "acme"}},
    "userConfig": {"enabled": True},
    "egress": {"enabled": True},
}


def generated(release: Release) -> dict[tuple[str, str], str]:
    return {
        (name, key): release.get("secret", name)["data"][key]
        for name, keys in GENERATED.items()
        for key in keys
    }


def test_upgrade_uninstall_and_reinstallation_keep_every_generated_secret_and_the_crd(
    release: Release,
) -> None:
    release.values = over(release.values, ALL_SECRETS)
    release.install(None, *TAKE_FIELDS)
    release.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(TASK))
    first = generated(release)
    assert len(set(first.values())) == len(first), "each has a value of its own"

    release.upgrade({"receiver": {"podAnnotations": {"round": "2"}}})
    assert generated(release) == first

    release.helm("uninstall", release.name)
    assert generated(release) == first
    assert [task["metadata"]["name"] for task in release.tasks()] == ["kept"], "the CRD stays, and its tasks"

    release.install(None, *TAKE_FIELDS)
    assert generated(release) == first
