"""The reporter is killed with SIGKILL after each request that it makes to the forge; the end is the same."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.task.model import Phase
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.until import until

from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.crash_proxy import CrashProxy
from tests.integration.operator_reporter.process import Reporter, account
from tests.integration.operator_reporter.world import BOT, DONE, PROCESSING, SEED, World

pytestmark = pytest.mark.timeout(600)
SIDE_BY_SIDE = 4
SETTINGS = {"grace": 0.2, "check_interval": 3600.0}


class Stage:
    """A namespace and a forge behind a proxy; plays the scenario again and again."""

    def __init__(self, world: World, proxy: CrashProxy) -> None:
        self.world, self.proxy = world, proxy
        world.api_url = world.forge.api_url.replace(world.forge.base_url, proxy.url)
        kubeconfig = account(world.plane, world.namespace, world.folder)
        self._reporter = Reporter(kubeconfig, world.config(**SETTINGS))
        self._pid = 0
        self._starting = threading.Lock()
        self._restarted = False

    def play(self, fatal: int) -> tuple[Any, bool]:
        """Label to end, the reporter dying after its request `fatal`; the end, and whether it died."""
        number = self.world.issue("bug", BOT)
        name = self.world.task(number)
        self.world.set_phase(name, Phase.RUNNING)
        self.proxy.arm(fatal, self._started)
        self._restarted = False
        self._start()
        try:
            self._until("labels", lambda: self.world.condition(name, "LabelsShown").get("status") == "True")
            result = {"branch": "coding-agent/issue-1", "changeURL": self.world.change_url(9)}
            self.world.set_phase(name, Phase.SUCCEEDED, result=result)
            self._until("the end", lambda: self.world.is_reported(name))
        finally:
            _kill(self._pid)
        died = self.proxy.killed.is_set()
        comments = [
            self.world.change_url(9) in comment.body and "Coding agent: done" in comment.body
            for comment in self.world.comments(number)
        ]
        return (self.world.forge.labels("acme/pricing", number), comments, self.world.history(number)), died

    def _start(self) -> None:
        with self._starting:
            self._pid = self._reporter.start().pid

    def _started(self) -> int:
        """The last one that was started; its first request may come before its pid is known here."""
        with self._starting:
            return self._pid

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        def there() -> bool:
            if self.proxy.killed.is_set() and not self._restarted:
                self._restarted = True
                self.proxy.disarm()
                self._start()
            return condition()

        until(lambda: f"{what}; the reporter's log:\n{self._reporter.log()[-6000:]}\n", there)


EXPECTED = (
    {"bug", DONE},
    [True],
    [
        ("labeled", BOT),
        ("labeled", PROCESSING),
        ("unlabeled", BOT),
        ("labeled", DONE),
        ("unlabeled", PROCESSING),
    ],
)


def test_killed_after_every_request_to_the_forge(
    plane: PlaneUnderTest, new_namespace: Callable[[str], str], flavour: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        stages = []
        for number in range(SIDE_BY_SIDE):
            folder = tmp_path / str(number)
            folder.mkdir()
            forge = stack.enter_context(ForgeServer(flavour, SEED, folder / "forge"))
            proxy = stack.enter_context(CrashProxy(forge.base_url))
            stages.append(Stage(World(plane, new_namespace("restricted"), forge, folder), proxy))
        end, died = stages[0].play(0)
        assert (end, died) == (EXPECTED, False)
        total = len(stages[0].proxy.requests)
        assert 8 <= total < 30, stages[0].proxy.requests
        kills = iter(range(1, total + 1))
        lock = threading.Lock()

        def play_on(stage: Stage) -> list[tuple[int, Any, bool, list[str]]]:
            played: list[tuple[int, Any, bool, list[str]]] = []
            while True:
                with lock:
                    number = next(kills, 0)
                if not number:
                    return played
                end, died = stage.play(number)
                played.append((number, end, died, stage.proxy.requests))

        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            runs = [run for runs in pool.map(play_on, stages) for run in runs]
    assert {number: (end, asked) for number, end, _, asked in runs if end != EXPECTED} == {}
    # The number of requests differs a little from run to run: some may end before their last one.
    assert [number for number, _, died, asked in runs if not died and len(asked) >= number] == []
    died_at = [asked[number - 1] for number, _, died, asked in runs if died]
    for writing in ("POST", "DELETE") if flavour == "github" else ("POST", "PUT"):
        assert any(entry.startswith(writing) for entry in died_at), f"it was killed at a {writing}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
