"""The operator under the AgentTask schema of an older release: it says what is missing and is not ready."""

from collections.abc import Callable, Iterator

import pytest

from tests.fixtures import crd
from tests.integration.operator.pod_driver import PodDriver
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]


@pytest.fixture
def old_schema(world: World) -> Iterator[None]:
    world.plane.apply(crd.of_november_28())
    yield
    crd.install(world.plane)


def test_an_operator_under_an_older_schema_is_not_ready_and_its_log_has_the_command(
    world: World, pods: PodDriver, old_schema: None, operator: Start
) -> None:
    process = operator()

    def refused() -> str | None:
        status, text = process.probe("/readyz")
        return text if status == 503 and "another release" in text else None

    text = world.until("it is not ready", refused)
    for part in (
        "status.phase does not allow Starting",
        "kubectl apply --server-side",
        "crds/agenttask.yaml",
    ):
        assert part in text
        assert part in process.log()
    assert process.probe("/livez")[0] == 200, "a restart would not help"

    crd.install(world.plane)
    world.until("it is ready", lambda: process.probe("/readyz") == (200, "ok") or None)
    log = process.log()
    assert log.count("is of another release, so") == 1
    assert "is of this release now" in log
    world.until_phase(world.create(7), "Succeeded")
