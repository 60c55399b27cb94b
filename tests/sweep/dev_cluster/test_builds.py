"""Which binaries are built from what, and that a build is safe to interrupt and to run twice."""

import os
import stat
import threading
from pathlib import Path

import pytest
from coding_agent_cluster import again, build, parts
from coding_agent_cluster.errors import BuildError

# A `go` that only copies the word of its package into the file or folder after -o, and counts its calls.
FAKE_GO = """#!/bin/sh
[ "$1" = env ] && { echo "go${GO_VERSION:-1.99.0}"; exit; }
echo call >> "$CALLS"
out= previous= package=
for word in "$@"; do [ "$previous" = -o ] && out=$word; previous=$word; package=$word; done
[ -z "$FAIL" ] || { echo "compiler says no" >&2; exit 1; }
case $out in */) out=$out$(basename "$package");; esac
echo "$package" > "$out"
"""


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a `go` whose calls are counted in the file that this returns."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(FAKE_GO)
    go.chmod(go.stat().st_mode | stat.S_IXUSR)
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CODING_AGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("FAIL", "")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("KUBERNETES_VERSION", raising=False)
    monkeypatch.setattr(again, "PAUSE_S", 0)
    return calls


def count(calls: Path) -> int:
    return len(calls.read_text().splitlines())


def test_a_part_is_built_once_however_many_ask_for_it(fake_go: Path) -> None:
    threads = [threading.Thread(target=build.binaries, args=(["kwok"],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert build.binaries(["kwok"])["kwok"].read_text().strip() == "sigs.k8s.io/kwok/cmd/kwok"
    assert count(fake_go) == 1


def test_an_interrupted_build_leaves_nothing_that_looks_finished(
    fake_go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = build.source(parts.MODULES["kwok"]).output / "kwok"
    leftover = target.parents[1] / "building-1"
    leftover.mkdir(parents=True)
    (leftover / "kwok").write_text("half of it")
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(BuildError, match="compiler says no"):
        build.binaries(["kwok"])
    assert not target.exists()
    monkeypatch.setenv("FAIL", "")
    assert build.binaries(["kwok"])["kwok"].read_text().strip().endswith("/kwok")
    assert list(target.parents[1].glob("building-*")) == []


def test_a_toolchain_that_is_not_the_pinned_one_is_refused(
    fake_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    served = tmp_path / "some.zip"
    served.write_bytes(b"something else")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: served.open("rb"))
    with pytest.raises(BuildError, match="not what was pinned"):
        build.binaries(["kwok"])
