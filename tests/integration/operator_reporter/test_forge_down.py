"""The forge is unavailable for a while: no task fails, and afterwards every item is up to date."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from coding_agent_core.task.model import Phase
from coding_agent_testbed.until import until

from tests.integration.operator.crash_proxy import CrashProxy
from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, World

Start = Callable[..., Reporter]


@pytest.fixture
def proxy(world: World) -> Iterator[CrashProxy]:
    with CrashProxy(world.forge.base_url) as made:
        world.api_url = world.forge.api_url.replace(world.forge.base_url, made.url)
        yield made


@pytest.mark.long
@pytest.mark.parametrize(("flavour", "kind"), [("github", "503"), ("gitlab", "limited"), ("github", "cut")])
def test_an_outage_in_the_middle(world: World, start: Start, kind: str) -> None:
    reporter, host = start(), world.host
    tasks = {number: world.task(number) for number in (world.issue(BOT) for _ in range(3))}
    for name in tasks.values():
        world.set_phase(name, Phase.RUNNING)
    for number in tasks:
        world.shows(number, "working on it", {PROCESSING})

    _break(world, kind)
    ended, *others = tasks.items()
    world.set_phase(ended[1], Phase.SUCCEEDED)
    problem = until("the task shows it", lambda: _problem(world, ended[1]))
    assert problem["reason"] == "ForgeUnavailable"
    assert "has not answered since" in problem["message"]
    until("an Event", lambda: "ForgeUnavailable" in [reason for reason, _ in world.events(ended[1])])
    assert world.read(ended[1])["status"]["phase"] == "Succeeded", "no task fails for it"
    # The reporter ends during the outage; the next one knows nothing of it.
    assert reporter.metric(f'coding_agent_reporter_forge_unavailable_seconds{{host="{host}"}}') > 0
    reporter.stop()
    reporter = start()
    for _, name in others:
        world.set_phase(name, Phase.SUCCEEDED)

    world.clear_faults()
    for number, name in tasks.items():
        world.shows(number, "Coding agent: done", {DONE})
        assert len(world.comments(number)) == 1
        until("the problem is over", lambda name=name: not _problem(world, name))  # type: ignore[misc]
        until("reported", lambda name=name: world.is_reported(name))  # type: ignore[misc]
    for gauge in ("forge_unavailable_seconds", "pending"):
        is_zero(reporter, f'coding_agent_reporter_{gauge}{{host="{host}"}}')
    assert world.condition(ended[1], "Reported")["status"] == "True"
    until("no task shows a problem any more", lambda: not any(map(partial(_problem, world), tasks.values())))


@pytest.mark.parametrize("flavour", ["github"])
def test_a_task_that_runs_through_an_outage(world: World, proxy: CrashProxy, start: Start) -> None:
    """One process sees two whole outages; nothing is left of the first one."""
    reporter = start(check_interval=3600)
    number = world.issue(BOT)
    name = world.task(number)
    world.set_phase(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    until("labels_shown", lambda: world.condition(name, "LabelsShown").get("status") == "True")
    away = f'coding_agent_reporter_forge_unavailable_seconds{{host="{world.host}"}}'
    for counted in (1, 2):
        proxy.refuse()
        phase = Phase.BACKOFF if counted == 1 else Phase.RUNNING
        world.set_phase(name, phase, reason=f"Outage{counted}", message=f"Outage {counted}.")
        until("the task shows it", lambda: _problem(world, name))
        until("the gauge shows it", lambda: reporter.metric(away) > 0)
        proxy.accept()
        world.shows(number, f"Outage {counted}.", {PROCESSING})
        until("true again", lambda: world.condition(name, "Reported")["status"] == "True")
        is_zero(reporter, away)
    assert len(world.comments(number)) == 1


def is_zero(reporter: Reporter, gauge: str) -> None:
    """The gauge shows that the outage is over; it is set once a second."""
    until(f"{gauge} is 0", lambda: reporter.metric(gauge) == 0)


def _break(world: World, kind: str) -> None:
    match kind:
        case "503":
            world.fault(path="/api/", status=503, times=10_000)
        case "limited":
            world.fault(path="/api/", status=429, retry_after=1, times=10_000)
        case "cut":
            world.fault(path="/api/", close="after", times=10_000)


def _problem(world: World, name: str) -> dict[str, str]:
    condition = world.condition(name, "Reported")
    return condition if condition.get("status") == "False" else {}
