"""`kubectl agenttask logs` finds the pod and the container; the API server fetches the log from the node."""

import pytest

from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import Plugin
from tests.integration.plugin.fake_kubelet import FakeKubelet

pytestmark = pytest.mark.pod_security("privileged")


def add_pod(place: Place, kubelet: FakeKubelet, task: str, attempt: int, *, began: bool = True) -> str:
    """A pod of an attempt, on the node; its agent says so."""
    name = f"{task}-{attempt}-x"
    labels = {"coding-agent.dev/task": task, "coding-agent.dev/attempt": str(attempt)}
    spec = {
        "nodeName": kubelet.node,
        "restartPolicy": "Never",
        "initContainers": [{"name": "workspace", "image": "none", "restartPolicy": "Always"}],
        "containers": [{"name": "agent", "image": "none"}],
    }
    core, limit = place.plane.core, {"_request_timeout": 60}
    core.create_namespaced_pod(
        place.namespace, {"metadata": {"name": name, "labels": labels}, "spec": spec}, **limit
    )
    state = {"running": {}} if began else {"waiting": {"reason": "ErrImagePull"}}
    one = {"image": "none", "imageID": "", "ready": began, "restartCount": 0, "state": state}
    status = {
        "phase": "Running" if began else "Pending",
        "containerStatuses": [{"name": "agent", **one}],
        "initContainerStatuses": [{"name": "workspace", **one}],
    }
    core.patch_namespaced_pod_status(name, place.namespace, {"status": status}, **limit)
    for container in ("agent", "workspace"):
        kubelet.lines[name, container] = [f"{container} of attempt {attempt}", "done"]
    return name


@pytest.fixture
def task(plugin: Plugin) -> str:
    return plugin("run", "https://github.com/octo/demo/issues/7").out.split()[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "agent of attempt 2\ndone\n"),
        (["--attempt", "1"], "agent of attempt 1\ndone\n"),
        (["--container", "workspace"], "workspace of attempt 2\ndone\n"),
        (["-f"], "agent of attempt 2\ndone\n"),
        (["--last"], "agent of attempt 2\ndone\n"),
    ],
)
def test_the_right_pod_and_container(
    place: Place, plugin: Plugin, kubelet: FakeKubelet, task: str, arguments: list[str], said: str
) -> None:
    for attempt in (1, 2):
        add_pod(place, kubelet, task, attempt)
    assert plugin("logs", task, *arguments).out == said
    assert ("follow=true" in kubelet.asked[-1]) == ("-f" in arguments)


@pytest.mark.long
def test_why_there_is_no_log(place: Place, plugin: Plugin, kubelet: FakeKubelet, task: str) -> None:
    assert "it is New, and has no pod. With -f" in plugin("logs", task, status=1).err
    add_pod(place, kubelet, task, 1, began=False)
    assert "its pod waits: ErrImagePull" in plugin("logs", task, status=1).err
    assert "attempt 3 has no pod. Attempts that have one: 1." in (
        plugin("logs", task, "--attempt", "3", status=1).err
    )
    place.plane.kubectl("-n", place.namespace, "delete", "pod", "--all", "--force", "--grace-period=0")
    place.end(task, succeeded=True)
    assert "its pods are gone" in plugin("logs", task, "-f", status=1).err


@pytest.mark.long
def test_the_newest_run_of_the_item_or_of_the_namespace(
    place: Place, plugin: Plugin, kubelet: FakeKubelet, task: str
) -> None:
    add_pod(place, kubelet, task, 1)
    place.end(task, succeeded=False)
    plugin("retry", task)
    assert "agent of attempt 1" in plugin("logs", task).out
    assert f"{task}-r2 has no log" in plugin("logs", task, "--last", status=1).err
    add_pod(place, kubelet, f"{task}-r2", 3)
    for arguments in ([task, "--last"], ["--last"], ["octo/demo#7"]):
        assert plugin("logs", *arguments).out == "agent of attempt 3\ndone\n"
    assert "name a task, or give --last" in plugin("logs", status=2).err
