"""Forges are unavailable for a whole minute, with the shipped delays of the reporter.

In three ways side by side, and, on both kinds of forge, in one after the other: 503, then connection refused,
then rate-limited with Retry-After.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from coding_agent_core.settings.operator import Reporter as Shipped
from coding_agent_core.tasks import Phase
from coding_agent_forge import ForgeServer

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.operator_reporter.forge_proxy import ForgeProxy
from tests.integration.operator_reporter.process import Reporter, until
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, SEED, World

pytestmark = pytest.mark.timeout(900)
OUTAGE_S = 60.0
WAITS = {
    name: getattr(Shipped(), name)
    for name in (
        "requests_per_second",
        "burst",
        "writes_per_minute",
        "creates_per_minute",
        "creates_per_hour",
        "retry_first",
        "retry_max",
        "outage_shown_after",
    )
}


BY_TURNS = {"retry_max": 10.0}
"""Short enough for each way to meet a request, and no other wait than those that are shipped."""
STATUS = {"503": "503", "refused": "none", "limited": "429"}
"""As the reporter counts the requests."""


def _outage(world: World, proxy: ForgeProxy, reporter: Reporter, kinds: tuple[str, ...]) -> None:
    ended, spared = world.issue(BOT), world.issue(BOT)
    names = {number: world.task(number) for number in (ended, spared)}
    for number, name in names.items():
        world.set_phase(name, Phase.RUNNING)
        world.shows(number, "working on it", {PROCESSING})

    began = time.monotonic()
    for turn, kind in enumerate(kinds):
        _break(world, proxy, kind)
        if turn:
            _restore(world, proxy, kinds[turn - 1])  # in this order: it never answers in between
        else:
            world.set_phase(names[ended], Phase.SUCCEEDED)
        until(f"{kind}: a request meets it", lambda kind=kind: _counted(reporter, kind))  # type: ignore[misc]
        over = began + OUTAGE_S * (turn + 1) / len(kinds)
        until(f"{kind}: its time is over", lambda over=over: time.monotonic() >= over)  # type: ignore[misc]
    until(
        f"{kinds}: recorded",
        lambda: world.condition(names[ended], "Reported").get("reason") == "ForgeUnavailable",
    )
    assert {world.read(name)["status"]["phase"] for name in names.values()} == {"Succeeded", "Running"}
    assert reporter.probe("/livez")[0] == 200, "nothing is restarted for it"
    away = f'coding_agent_reporter_forge_unavailable_seconds{{host="{world.host}"}}'
    assert reporter.metric(away) > OUTAGE_S / 2
    _restore(world, proxy, kinds[-1])

    # The longest wait after a minute is the next doubling: 64 s.
    world.shows(ended, "Coding agent: done", {DONE}, timeout=200)
    until("it is no longer away", lambda: reporter.metric(away) == 0)
    until("true again", lambda: world.condition(names[ended], "Reported").get("status") == "True")
    world.set_phase(names[spared], Phase.SUCCEEDED)
    world.shows(spared, "Coding agent: done", {DONE})
    assert [len(world.comments(number)) for number in names] == [1, 1]
    for name in names.values():
        until("reported", lambda name=name: world.is_reported(name))  # type: ignore[misc]
        assert world.condition(name, "Reported").get("reason") != "ForgeUnavailable"
    assert [reason for reason, _ in world.events(names[ended])].count("ForgeUnavailable") == 1
    until(
        "nothing waits",
        lambda: reporter.metric(f'coding_agent_reporter_pending{{host="{world.host}"}}') == 0,
    )
    assert reporter.metric(away) == 0


def _break(world: World, proxy: ForgeProxy, kind: str) -> None:
    match kind:
        case "503":
            world.fault(path="/api/", status=503, times=10_000)
        case "refused":
            proxy.refuse()
        case "limited":
            world.fault(path="/api/", status=429, retry_after=20, times=10_000)


def _restore(world: World, proxy: ForgeProxy, kind: str) -> None:
    proxy.accept() if kind == "refused" else world.clear_faults()


def _counted(reporter: Reporter, kind: str) -> bool:
    counted = rf'forge_requests_total{{[^}}]*status="{STATUS[kind]}"}} [1-9]'
    return re.search(counted, reporter.probe("/metrics")[1]) is not None


def test_a_minute_without_a_forge(
    control_plane: PlaneUnderTest, new_namespace: Callable[[str], str], tmp_path: Path
) -> None:
    install(control_plane)
    with ExitStack() as stack:
        one_by_one = ("503", "refused", "limited")
        plays = [
            ("github", ("503",)),
            ("gitlab", ("refused",)),
            ("github", ("limited",)),
            ("github", one_by_one),
            ("gitlab", one_by_one),
        ]
        pool = stack.enter_context(ThreadPoolExecutor(len(plays)))
        outages = []
        for flavour, kinds in plays:
            folder = tmp_path / "-".join((flavour, *kinds))
            folder.mkdir()
            forge = stack.enter_context(ForgeServer(flavour, SEED, folder / "forge"))
            proxy = stack.enter_context(ForgeProxy(forge.base_url))
            world = World(control_plane, new_namespace("restricted"), forge, folder)
            world.api_url = forge.api_url.replace(forge.base_url, proxy.url)
            waits = WAITS | BY_TURNS if len(kinds) > 1 else WAITS
            reporter = world.reporter(**waits).start()
            stack.callback(reporter.stop)
            outages.append(pool.submit(_outage, world, proxy, reporter.ready(), kinds))
        for outage in outages:
            outage.result(600)
