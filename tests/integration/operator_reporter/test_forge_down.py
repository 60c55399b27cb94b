"""The forge is away in the middle (503, refused, rate-limited): nothing fails, all is true afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from coding_agent_core.phases import Phase

from tests.integration.operator_reporter.forge_proxy import ForgeProxy
from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, World

Start = Callable[..., Reporter]


@pytest.fixture
def proxy(world: World) -> Iterator[ForgeProxy]:
    with ForgeProxy(world.forge.base_url) as made:
        world.api_url = world.forge.api_url.replace(world.forge.base_url, made.url)
        yield made


@pytest.mark.parametrize(
    ("flavour", "kind"),
    [
        ("github", "503"),
        ("gitlab", "refused"),
        ("github", "limited"),
        ("gitlab", "limited"),
        ("github", "cut"),
    ],
)
def test_an_outage_in_the_middle(world: World, proxy: ForgeProxy, start: Start, kind: str) -> None:
    reporter = start()
    tasks = {number: world.task(number) for number in (world.issue(BOT) for _ in range(3))}
    for name in tasks.values():
        world.stand(name, Phase.RUNNING)
    for number in tasks:
        world.shows(number, "working on it", {PROCESSING})

    _break(world, proxy, kind)
    ended, *others = tasks.items()
    world.stand(ended[1], Phase.SUCCEEDED)
    told = until("told on the task", lambda: _told(world, ended[1]))
    assert told["reason"] == "ForgeUnavailable"
    assert "has not answered since" in told["message"]
    until("an Event", lambda: "ForgeUnavailable" in [reason for reason, _ in world.events(ended[1])])
    assert world.read(ended[1])["status"]["phase"] == "Succeeded", "no task fails for it"
    # The reporter dies in the outage; the next one knows nothing of it.
    reporter.stop()
    start()
    for _, name in others:
        world.stand(name, Phase.SUCCEEDED)

    _mend(world, proxy, kind)
    for number, name in tasks.items():
        world.shows(number, "Coding agent: done", {DONE})
        assert len(world.comments(number)) == 1
        until("it is told no longer", lambda name=name: not _told(world, name))  # type: ignore[misc]
        until("reported", lambda name=name: world.is_reported(name))  # type: ignore[misc]


@pytest.mark.parametrize("flavour", ["github"])
def test_what_the_forge_asks_for_is_obeyed(world: World, start: Start) -> None:
    """A secondary limit with Retry-After: not a single request before that time."""
    start()
    number = world.issue(BOT)
    name = world.task(number)
    world.fault(path="/api/", secondary_rate_limit=True, retry_after=3)
    world.stand(name, Phase.RUNNING)
    world.shows(number, "working on it", {PROCESSING})
    times = [each["at"] for each in world.requests()]
    assert times[1] - times[0] >= 3.0, "the one after the limited one"


def _break(world: World, proxy: ForgeProxy, kind: str) -> None:
    match kind:
        case "503":
            world.fault(path="/api/", status=503, times=10_000)
        case "refused":
            proxy.refuse()
        case "limited":
            world.fault(path="/api/", status=429, retry_after=1, times=10_000)
        case "cut":
            world.fault(path="/api/", close="after", times=10_000)


def _mend(world: World, proxy: ForgeProxy, kind: str) -> None:
    if kind == "refused":
        proxy.accept()
    else:
        world.mend()


def _told(world: World, name: str) -> dict[str, str]:
    condition = world.condition(name, "Reported")
    return condition if condition.get("status") == "False" else {}
