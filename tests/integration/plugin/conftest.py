"""The plugin as people run it, against a real API server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.core_kubernetes.place import Place
from tests.integration.plugin.fake_kubelet import FakeKubelet

PLUGIN = Path(sys.executable).with_name("kubectl-agenttask")


@dataclass(frozen=True)
class Said:
    """What a command did."""

    status: int
    out: str
    err: str


Plugin = Callable[..., Said]


@pytest.fixture(scope="session")
def plane_with_agenttasks(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    """The control plane with the AgentTask resource."""
    install(control_plane)
    return control_plane


@pytest.fixture
def place(plane_with_agenttasks: PlaneUnderTest, namespace: str, tmp_path: Path) -> Place:
    """A namespace of the test's own."""
    return Place(plane_with_agenttasks, namespace, tmp_path)


@pytest.fixture
def plugin(place: Place) -> Plugin:
    """Run `kubectl agenttask ARGUMENTS` through kubectl, in the test's namespace."""

    def run(*arguments: str, status: int = 0, namespaced: bool = True, through: str = "kubectl") -> Said:
        kubectl = str(place.plane.plane.binaries["kubectl"])
        command = [kubectl, "agenttask"] if through == "kubectl" else [str(PLUGIN)]
        where = ["-n", place.namespace] if namespaced else []
        done = subprocess.run(
            [*command, *arguments, *where],
            env={
                "PATH": f"{PLUGIN.parent}:{os.environ['PATH']}",
                "HOME": str(place.folder),
                "KUBECONFIG": str(place.plane.kubeconfig),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = Said(done.returncode, done.stdout, done.stderr)
        assert said.status == status, said
        assert "Traceback" not in said.err
        return said

    return run


@pytest.fixture
def kubelet(place: Place) -> Iterator[FakeKubelet]:
    """A node whose containers have logs."""
    with FakeKubelet(place.plane, f"node-{place.namespace}") as node:
        yield node
