"""Which binaries are built from what, and that a build is safe to interrupt and to run twice."""

import os
import stat
import threading
from pathlib import Path

import pytest
from coding_agent_cluster import again, build, gomod, parts, paths, standalone
from coding_agent_cluster.errors import BuildError, MachineError

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


def test_every_part_is_pinned_with_a_checksum_and_no_module_names_a_proxy() -> None:
    folder = paths.source_root() / "go"
    for part in parts.PARTS.values():
        module = parts.MODULES[part.module]
        pinned = (folder / module.name / "go.mod").read_text()
        version = gomod.required_version(pinned, module.anchor)
        assert f"{module.anchor} {version} h1:" in (folder / module.name / "go.sum").read_text()
        assert part.package == "." or part.package in pinned.split("require", 1)[0], part.name
    assert not [file for file in folder.glob("*/go.*") if "proxy." in file.read_text()]


def test_a_part_is_built_once_however_many_ask_for_it(fake_go: Path) -> None:
    threads = [threading.Thread(target=build.binaries, args=(["kwok"],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert build.binaries(["kwok"])["kwok"].read_text().strip() == "sigs.k8s.io/kwok/cmd/kwok"
    assert count(fake_go) == 1


def test_another_pin_is_another_folder(
    fake_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = parts.MODULES["kwok"]
    before = build.source(module).output
    copy = tmp_path / "kwok"
    copy.mkdir()
    for name in ("go.mod", "go.sum"):
        (copy / name).write_text((paths.source_root() / "go/kwok" / name).read_text())
    monkeypatch.setattr(build, "module_folder", lambda _: copy)
    assert build.source(module).output == before
    (copy / "go.sum").write_text((copy / "go.sum").read_text() + "example.com/m v1.0.0 h1:x=\n")
    assert build.source(module).output != before


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


@pytest.mark.parametrize("lacking", [{"PATH": "/nowhere"}, {"GO_VERSION": "1.26.7"}])
def test_without_a_new_go_the_message_says_what_to_install(
    fake_go: Path, monkeypatch: pytest.MonkeyPatch, lacking: dict[str, str]
) -> None:
    for name, value in lacking.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:1,direct")
    with pytest.raises(BuildError, match="Install Go"):
        build.binaries(["kwok"])
    assert count(fake_go) == 0


def test_a_toolchain_that_is_not_the_pinned_one_is_refused(
    fake_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    served = tmp_path / "some.zip"
    served.write_bytes(b"something else")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: served.open("rb"))
    with pytest.raises(BuildError, match="not what was pinned"):
        build.binaries(["kwok"])


def test_envtest_binaries_are_used_as_far_as_they_go(
    fake_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (assets / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    found = standalone.binaries(parts.CONTROL_PLANE)
    assert {n for n, p in found.items() if p.parent == assets} == {"etcd", "kube-apiserver", "kubectl"}
    assert count(fake_go) == 1, "only the controller manager, which envtest has not"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "/nowhere")
    with pytest.raises(MachineError, match="KUBEBUILDER_ASSETS=/nowhere is not a folder"):
        standalone.binaries(["etcd"])


def test_another_kubernetes_replaces_the_staging_modules_by_published_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = (
        "module k8s.io/kubernetes\n\ngo 1.25.0\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n"
    )
    text = gomod.derived_go_mod(upstream, "v1.35.4")
    assert "go 1.25.0" in text
    assert "replace k8s.io/api => k8s.io/api v0.35.4" in text
    for wrong in ("latest", "2.0", "1.35.x", "v"):
        monkeypatch.setenv("KUBERNETES_VERSION", wrong)
        with pytest.raises(BuildError, match="KUBERNETES_VERSION"):
            gomod.module_folder(parts.MODULES["kubernetes"])
