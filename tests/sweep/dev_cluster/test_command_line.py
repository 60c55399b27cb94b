"""The command line: what cannot be done here is said in a sentence that names the fix."""

import os
import platform
from pathlib import Path

import pytest
from coding_agent_cluster import __main__ as command_line
from coding_agent_cluster import cluster, foreign, standalone
from coding_agent_cluster.errors import MachineError


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODING_AGENT_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("system", "uid", "message"),
    [
        ("Darwin", 0, "a node needs Linux: .*E2E_KUBECONFIG.*make control-plane"),
        ("Linux", 1000, "a node needs root.*sudo"),
    ],
)
def test_a_node_is_refused_where_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, system: str, uid: int, message: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(MachineError, match=message):
        cluster.up("never")


def test_a_mistake_is_an_error_with_its_fix_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["status"]) == 1
    assert "start it with `make cluster`" in capsys.readouterr().err
    assert command_line.main(["build", "nothing"]) == 1
    assert "there is no part 'nothing'; the parts are:" in capsys.readouterr().err


def test_ending_what_does_not_run_is_no_error() -> None:
    assert command_line.main(["down"]) == command_line.main(["control-plane", "down"]) == 0


def test_tests_on_a_given_cluster_build_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setenv("E2E_KUBECONFIG", "kind.yaml")
    monkeypatch.setattr(standalone, "binaries", built.extend)
    assert command_line.main(["prepare", "e2e"]) == 0
    assert "helm" in built
    assert "kubelet" not in built


def test_a_given_cluster_without_its_file_is_an_error_that_names_it() -> None:
    with pytest.raises(MachineError, match=r"E2E_KUBECONFIG=none\.yaml: there is no such file"):
        foreign.kubeconfig("none.yaml")
