"""`wait`, `--wait` and `--watch` against a real API server: they show changes as these happen."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from coding_agent_core.task.model import Phase
from coding_agent_testbed.until import until

from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.conftest import PLUGIN, Plugin

ISSUE = "https://github.com/octo/demo/issues/7"


class Background:
    """A command that a person started, and what it has printed so far."""

    def __init__(self, place: Place, arguments: list[str], folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        # A test that runs in the background ignores SIGINT, and so would the program.
        command = ["env", "--default-signal=INT", str(PLUGIN), *arguments, "-n", place.namespace]
        environment = {**os.environ, "KUBECONFIG": str(place.plane.kubeconfig)}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def says(self, text: str) -> None:
        """Wait until the command has printed a text."""
        until(lambda: f"{text!r} in {self.out + self.err!r}", lambda: text in self.out + self.err)

    def ends(self) -> int:
        return self.process.wait(timeout=120)


Start = Callable[..., Background]


@pytest.fixture
def start(place: Place, tmp_path: Path) -> Iterator[Start]:
    """Start a command that goes on while the test does."""
    started: list[Background] = []

    def begin(*arguments: str) -> Background:
        folder = tmp_path / f"command-{len(started)}"
        folder.mkdir()
        started.append(Background(place, list(arguments), folder))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait(timeout=60)


@pytest.fixture
def task(plugin: Plugin) -> str:
    return plugin("run", ISSUE).out.split()[1]


def cancelled(place: Place, task: str) -> None:
    condition = {"type": "Succeeded", "status": "False", "reason": "Cancelled"}
    moment = {"lastTransitionTime": "2026-11-25T12:00:00Z"}
    place.patch_status(task, {"conditions": [condition | moment], "phase": Phase.CANCELLED.value})


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda place, task: place.end(task, succeeded=True), 0),
        (lambda place, task: place.end(task, succeeded=False), 1),
        (cancelled, 3),
    ],
    ids=["succeeded", "failed", "cancelled"],
)
def test_a_task_that_has_ended_says_at_once_how(
    place: Place, plugin: Plugin, task: str, end: Callable[[Place, str], None], status: int
) -> None:
    end(place, task)
    said = plugin("wait", "octo/demo#7", status=status)
    phase = place.task(task)["status"]["phase"]
    assert said.out == f"agenttask {task} {phase}\n"


def test_wait_shows_what_happens_until_the_end(place: Place, start: Start, task: str) -> None:
    waiting = start("wait", task, "-o", "json")
    waiting.says(f"agenttask {task} New")
    place.patch_status(task, {"phase": "Queued", "queuePosition": 3})
    waiting.says(f"agenttask {task} Queued, position 3")
    place.end(task, succeeded=False)
    assert waiting.ends() == 1
    [succeeded, _] = json.loads(waiting.out)["status"]["conditions"]
    assert (succeeded["type"], succeeded["status"]) == ("Succeeded", "False")


def test_wait_gives_up_after_the_time_and_when_the_task_is_deleted(
    place: Place, plugin: Plugin, start: Start, task: str
) -> None:
    said = plugin("wait", task, "--timeout", "1s", status=124)
    assert f"{task} has not ended after 1s. It goes on" in said.err
    assert "there is no agenttask" in plugin("wait", "none", status=66).err
    waiting = start("wait", task)
    waiting.says("New")
    place.plane.kubectl("-n", place.namespace, "delete", "agenttask", task)
    assert waiting.ends() == 66
    assert "somebody deleted" in waiting.err


@pytest.mark.parametrize("command", ["run", "retry"])
def test_a_new_task_can_be_waited_for(place: Place, start: Start, plugin: Plugin, command: str) -> None:
    target = ISSUE
    if command == "retry":
        target = plugin("run", ISSUE).out.split()[1]
        place.end(target, succeeded=False)
    waiting = start(command, target, "--wait", "--timeout", "5m")
    waiting.says("created")
    waiting.says("New")
    name = max(place.tasks(), key=len)
    place.end(name, succeeded=True)
    assert waiting.ends() == 0
    assert waiting.out == f"agenttask {name} Succeeded\n"


def test_watch_prints_a_row_for_each_change(place: Place, start: Start, plugin: Plugin, task: str) -> None:
    watching = start("list", "--watch", "--active")
    watching.says(task)
    header, first = watching.out.splitlines()
    assert first.index("New") == header.index("PHASE")
    other = plugin("run", "https://github.com/octo/other/issues/1").out.split()[1]
    watching.says(other)
    # An ended task does not match --active any more, and its end is shown all the same.
    place.patch_status(task, {"phase": "Running"})
    watching.says("Running")
    place.end(task, succeeded=True)
    watching.says("Succeeded")
    place.plane.kubectl("-n", place.namespace, "delete", "agenttask", other)
    watching.says(f"{other} was deleted.")
    watching.process.send_signal(signal.SIGINT)
    assert watching.ends() == 130


def test_watch_of_an_item_shows_nothing_else(start: Start, plugin: Plugin, task: str) -> None:
    watching = start("list", "octo/demo#7", "--active", "--watch", "-o", "name")
    watching.says(task)
    other = plugin("run", "https://github.com/octo/demo/issues/70").out.split()[1]
    plugin("suspend", other)
    plugin("suspend", task)
    until(lambda: watching.out, lambda: watching.out.count(task) == 2)
    assert other not in watching.out
