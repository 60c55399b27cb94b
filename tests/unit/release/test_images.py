"""`make images` builds and pushes with the first builder that works."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from coding_agent_release.chart import IMAGES

from tests.fixtures.noted_programs import NotedPrograms

ROOT = Path(__file__).resolve().parents[3]
REGISTRY = "registry.example.com/team"


class Machine:
    """A machine with some builders."""

    def __init__(self, folder: Path) -> None:
        self.programs = NotedPrograms(folder)
        for name in ("bash", "dirname", "sed"):
            (folder / name).symlink_to(
                f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}"
            )

    def has(self, name: str, *, works: bool = True, fails_at: str = "") -> None:
        self.programs.add(
            name,
            before=f'[ "$1" = info ] && exit {0 if works else 1}',
            after=f'case "$*" in {fails_at or "nothing-fails"}) exit 1 ;; esac',
        )

    @property
    def calls(self) -> list[str]:
        """One line for each call but `info`."""
        return self.programs.calls

    def run(self, registry: str = REGISTRY, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "dev" / "images.sh"), registry],
            env={"PATH": str(self.programs.folder), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
def test_each_image_of_the_chart_is_built_and_then_pushed(machine: Machine, builder: str) -> None:
    machine.has(builder)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    builds, pushes = machine.calls[: len(IMAGES)], machine.calls[len(IMAGES) :]
    version = re.search(
        r"^appVersion: \"?([^\s\"]+)", (ROOT / "charts/coding-agent/Chart.yaml").read_text(), re.M
    )
    assert version is not None
    names = {f"{REGISTRY}/coding-agent-{program}:{version[1]}" for program in IMAGES}
    assert {line.partition(" push ")[2] for line in pushes} == names
    for line in builds:
        found = re.fullmatch(rf"{builder} build .*--file (\S+) --target (\S+) --tag (\S+) \.", line)
        assert found is not None
        assert f" AS {found[2]}\n" in (ROOT / found[1]).read_text()
        assert found[3] in names


def test_a_client_without_its_daemon_is_passed_over(machine: Machine) -> None:
    machine.has("docker", works=False)
    machine.has("buildah")
    assert machine.run(BASE_IMAGE="base:1", PLAIN_HTTP="1", TAG="7").returncode == 0
    assert all(line.startswith("buildah ") for line in machine.calls)
    assert "--build-arg BASE_IMAGE=base:1" in machine.calls[0]
    assert machine.calls[-1] == f"buildah push --tls-verify=false {REGISTRY}/coding-agent-egress:7"


def test_nothing_is_pushed_if_an_image_cannot_be_built(machine: Machine) -> None:
    machine.has("podman", fails_at="*egress*")
    assert machine.run().returncode != 0
    assert not [line for line in machine.calls if " push " in line]


def test_what_is_missing_is_said(machine: Machine) -> None:
    done = machine.run()
    assert (done.returncode, "Neither docker, podman nor buildah works here" in done.stderr) == (1, True)
    done = machine.run(registry="")
    assert (done.returncode, "make images REGISTRY=" in done.stderr) == (2, True)


def test_make_has_one_recipe_for_each_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "images", f"REGISTRY={REGISTRY}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f'dev/images.sh "{REGISTRY}"\n', "")
