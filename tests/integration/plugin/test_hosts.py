"""`kubectl agenttask hosts`: a pod of the image says which hosts its package managers use."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from coding_agent_testbed.until import until

from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import Plugin, Said
from tests.integration.plugin.fake_kubelet import FakeKubelet

IMAGE = "registry.example.com/team/toolchain:1"
LIMIT = {"_request_timeout": 10}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


def started(place: Place, plugin: Plugin, pool: ThreadPoolExecutor, status: int) -> tuple[Any, Future[Said]]:
    """Start the command; its pod, once there is one, which the namespace's profile `restricted` admitted."""
    running = pool.submit(plugin, "hosts", IMAGE, "--pull-secret", "registry", status=status)
    pods = until("a pod", lambda: place.plane.core.list_namespaced_pod(place.namespace, **LIMIT).items)
    return pods[0], running


def ends(place: Place, name: str, state: dict[str, Any]) -> None:
    one = {"name": "package-managers", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}
    status = {"containerStatuses": [{**one, "state": state}]}
    place.plane.core.patch_namespaced_pod_status(name, place.namespace, {"status": status}, **LIMIT)


def test_it_prints_the_values_to_paste_and_deletes_its_pod(
    place: Place, plugin: Plugin, kubelet: FakeKubelet, pool: ThreadPoolExecutor
) -> None:
    pod, running = started(place, plugin, pool, 0)
    name, [container] = pod.metadata.name, pod.spec.containers
    assert (container.image, container.command[:2]) == (IMAGE, ["sh", "-c"])
    assert "npm config get registry" in container.command[2]
    assert pod.spec.automount_service_account_token is False
    assert [secret.name for secret in pod.spec.image_pull_secrets] == ["registry"]
    kubelet.lines[name, container.name] = [
        *("egress:", "  allow:", "    - packages.example.com", "    - mirror.example.com:8443"),
        *("    - \x1b[31mevil", "    - x: y", "operator: {}"),
    ]
    binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": kubelet.node}}
    place.plane.core.create_namespaced_binding(place.namespace, binding, _preload_content=False, **LIMIT)
    ends(place, name, {"terminated": {"exitCode": 0}})
    allowed = ["mirror.example.com:8443", "packages.example.com"]
    assert yaml.safe_load(running.result(60).out) == {"egress": {"allow": allowed}}
    assert place.plane.core.list_namespaced_pod(place.namespace, **LIMIT).items == []


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"waiting": {"reason": "ErrImagePull"}}, "give --pull-secret for a private registry"),
        ({"terminated": {"exitCode": 128, "message": "no such file"}}, "cannot run `sh`: no such file"),
    ],
)
def test_an_image_that_cannot_run_is_said_and_its_pod_deleted(
    place: Place, plugin: Plugin, pool: ThreadPoolExecutor, state: dict[str, Any], sentence: str
) -> None:
    pod, running = started(place, plugin, pool, 1)
    ends(place, pod.metadata.name, state)
    assert sentence in running.result(60).err
    assert place.plane.core.list_namespaced_pod(place.namespace, **LIMIT).items == []
