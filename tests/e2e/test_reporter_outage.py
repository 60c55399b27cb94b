"""Forges are away for a whole minute, in three ways side by side, with the reporter's waits as shipped."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from coding_agent_core.phases import Phase
from coding_agent_core.settings.reporter import Reporter as Shipped
from coding_agent_forge import ForgeServer

from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.world import install
from tests.integration.operator_reporter.forge_proxy import ForgeProxy
from tests.integration.operator_reporter.process import Reporter, Zygote, until
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, SEED, World

pytestmark = pytest.mark.timeout(900)
OUTAGE_S = 60.0
WAITS = {
    name: getattr(Shipped(), name)
    for name in (
        "requests_per_second",
        "burst",
        "writes_per_minute",
        "retry_first",
        "retry_max",
        "tell_after",
    )
}


def _outage(world: World, proxy: ForgeProxy, reporter: Reporter, kind: str) -> None:
    ended, spared = world.issue(BOT), world.issue(BOT)
    names = {number: world.task(number) for number in (ended, spared)}
    for number, name in names.items():
        world.stand(name, Phase.RUNNING)
        world.shows(number, "working on it", {PROCESSING}, timeout=60)

    began = time.monotonic()
    match kind:
        case "503":
            world.fault(path="/api/", status=503, times=10_000)
        case "refused":
            proxy.refuse()
        case "limited":
            world.fault(path="/api/", status=429, retry_after=20, times=10_000)
    world.stand(names[ended], Phase.SUCCEEDED)
    until(
        f"{kind}: told",
        lambda: world.condition(names[ended], "Reported").get("reason") == "ForgeUnavailable",
        timeout=OUTAGE_S,
    )
    until("a minute is over", lambda: time.monotonic() - began >= OUTAGE_S, timeout=OUTAGE_S + 5)
    assert {world.read(name)["status"]["phase"] for name in names.values()} == {"Succeeded", "Running"}
    assert reporter.probe("/livez")[0] == 200, "nothing is restarted for it"
    proxy.accept() if kind == "refused" else world.mend()

    # The longest wait after a minute is the next doubling: 64 s.
    world.shows(ended, "Coding agent: done", {DONE}, timeout=200)
    world.stand(names[spared], Phase.SUCCEEDED)
    world.shows(spared, "Coding agent: done", {DONE}, timeout=200)
    assert [len(world.comments(number)) for number in names] == [1, 1]
    for name in names.values():
        until("reported", lambda name=name: world.is_reported(name), timeout=60)  # type: ignore[misc]
        assert world.condition(name, "Reported").get("status") != "False"


def test_a_minute_without_a_forge(
    control_plane: PlaneUnderTest, new_namespace: Callable[[str], str], tmp_path: Path
) -> None:
    install(control_plane)
    with ExitStack() as stack:
        zygote = Zygote(tmp_path)
        stack.callback(zygote.close)
        pool = stack.enter_context(ThreadPoolExecutor(3))
        outages = []
        for flavour, kind in (("github", "503"), ("gitlab", "refused"), ("github", "limited")):
            folder = tmp_path / kind
            folder.mkdir()
            forge = stack.enter_context(ForgeServer(flavour, SEED, folder / "forge"))
            proxy = stack.enter_context(ForgeProxy(forge.base_url))
            world = World(control_plane, new_namespace("restricted"), forge, folder)
            world.api_url = forge.api_url.replace(forge.base_url, proxy.url)
            reporter = world.reporter(zygote, **WAITS).start()
            stack.callback(reporter.stop)
            outages.append(pool.submit(_outage, world, proxy, reporter.ready(), kind))
        for each in outages:
            each.result(600)
