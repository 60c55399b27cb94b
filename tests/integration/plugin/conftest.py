"""The plugin as people run it, against a real API server."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.model import ModelServer
from kubectl_agenttask.__main__ import main

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.forge import REPOSITORY
from tests.fixtures.model import finish, model_server, script
from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.fake_kubelet import FakeKubelet
from tests.integration.plugin.newcomer import Newcomer

PLUGIN = Path(sys.executable).with_name("kubectl-agenttask")


@dataclass(frozen=True)
class Said:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def wrong(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.out.splitlines() if line.startswith("wrong")]

    @property
    def only_wrong(self) -> str:
        """The one line that says what is wrong."""
        assert len(self.wrong) == 1, self.out
        return self.wrong[0]


Plugin = Callable[..., Said]


@pytest.fixture(scope="session")
def plane_with_agenttasks(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    install(control_plane)
    return control_plane


@pytest.fixture
def place(plane_with_agenttasks: PlaneUnderTest, namespace: str, tmp_path: Path) -> Place:
    return Place(plane_with_agenttasks, namespace, tmp_path)


@pytest.fixture
def plugin(place: Place) -> Plugin:
    """Run `kubectl agenttask ARGUMENTS` in the test's namespace.

    `status`: the expected exit status, `None` for any. `through`: `kubectl` and `script` start programs, as
    people do, and `complete` asks kubectl as a shell does after a tab; without it the same function is
    called here, in a tenth of the time.
    """
    kubeconfig = str(place.plane.kubeconfig)
    environment = {
        "PATH": f"{PLUGIN.parent}:{os.environ['PATH']}",
        "HOME": str(place.folder),
        "KUBECONFIG": kubeconfig,
    }
    kubectl = str(place.plane.plane.binaries["kubectl"])
    programs = {
        "kubectl": [kubectl, "agenttask"],
        "complete": [kubectl, "__complete", "agenttask"],
        "script": [str(PLUGIN)],
    }

    def run(*arguments: str, status: int | None = 0, namespaced: bool = True, through: str = "") -> Said:
        given = [*arguments, *(["-n", place.namespace] if namespaced else [])]
        if through:
            said = _start([*programs[through], *given], environment)
        else:
            said = _call(given if "--kubeconfig" in given else [*given, "--kubeconfig", kubeconfig])
        assert status in (None, said.status), f"{said.out}\n{said.err}"
        assert "Traceback" not in said.err
        return said

    return run


def _start(command: list[str], environment: dict[str, str]) -> Said:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def _call(arguments: list[str]) -> Said:
    with TextIOWrapper(BytesIO(), "utf-8", write_through=True) as out, StringIO() as err:
        with redirect_stdout(out), redirect_stderr(err):
            status = main(arguments)
        return Said(status, out.buffer.getvalue().decode(), err.getvalue())


@pytest.fixture
def kubelet(place: Place) -> Iterator[FakeKubelet]:
    with FakeKubelet(place.plane, f"node-{place.namespace}") as node:
        yield node


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with model_server(script(finish(), loop=True)) as server:
        yield server


@pytest.fixture
def newcomer_at(
    place: Place, plugin: Plugin, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[ForgeServer], Newcomer]:
    """A person who wants the agent for a repository of a forge, which has no labels yet."""

    def newcomer(forge: ForgeServer) -> Newcomer:
        forge.run(forge.repository(REPOSITORY).labels.clear)
        one = Newcomer(place, plugin, forge, model, monkeypatch)
        one.has()
        return one

    return newcomer


@pytest.fixture(params=["github", "gitlab"])
def newcomer(request: pytest.FixtureRequest, newcomer_at: Callable[[ForgeServer], Newcomer]) -> Newcomer:
    forge: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    return newcomer_at(forge)
