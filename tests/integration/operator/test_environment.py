"""An attempt asks for another pod: the operator makes it, within its settings and not for ever."""

from collections.abc import Callable
from typing import Any

from coding_agent_core.task.environment import Environment, Service
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Usage

from tests.integration.operator.pod_driver import DONE, PodDriver, reported
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]
DATABASE = Service(
    name="database",
    image="registry.example.com/library/postgres:16",
    port=5432,
    env={"POSTGRES_PASSWORD": "test"},
    folders=("/var/lib/data",),
)
ASKED = Environment(image="registry.example.com/team/tools:1.10", egress=("node",), services=(DATABASE,))
SETTINGS: dict[str, Any] = {
    "repository_environment": {
        "images": ["registry.example.com/team/*"],
        "service_images": ["registry.example.com/library/postgres:16"],
    },
    "egress": {
        "proxy": "http://127.0.0.1:3128",
        "key": "a key",
        "presets": {"node": ["packages.example.com"]},
    },
}


def proxy_users(pod: Any) -> dict[str, str | None]:
    found = {}
    for container in (*pod.init_containers, *pod.containers):
        values = {one.name: one.value for one in container.env or ()}
        found[container.name] = values.get("HTTP_PROXY", "//:").split("//")[1].split(":")[0] or None
    return found


def test_the_next_attempt_gets_what_the_repository_asks_for(
    world: World, pods: PodDriver, operator: Start
) -> None:
    changed = reported(Reason.ENVIRONMENT_CHANGED, environment=ASKED, usage=Usage())
    pods.script = lambda job: changed if job.endswith("-1") else DONE
    operator(**SETTINGS, development={"retry_delay": 600, "retry_delay_max": 600})
    name = world.create(7, maxAttempts=1)
    status = world.until_phase(name, "Succeeded")
    assert [(a["outcome"], a["reason"], a["counted"]) for a in status["attempts"]] == [
        ("Restarted", "EnvironmentChanged", False),
        ("Succeeded", "Completed", True),
    ]
    assert status["attempt"] == "1/1"
    assert Environment.model_validate(status["environment"]) == ASKED
    first, pod = (world.jobs()[f"{name}-{number}"].spec.template.spec for number in (1, 2))
    assert [container.name for container in first.init_containers] == ["workspace"]
    *_, service, workspace = pod.init_containers
    assert (workspace.name, workspace.image) == ("workspace", ASKED.image)
    assert (service.name, service.image, service.restart_policy) == (
        "service-database",
        DATABASE.image,
        "Always",
    )
    assert service.startup_probe.tcp_socket.port == 5432
    assert {mount.mount_path for mount in service.volume_mounts} == {"/tmp", "/var/lib/data"}
    users = proxy_users(pod)
    assert users["service-database"] is None
    assert (users["workspace"], users["agent"]) == (f"{name}-2.workspace_node", f"{name}-2.agent")
