"""One release for all tests of this folder: `make release` to a registry on this machine."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import build

from tests.sweep.release.registry import Registry

ROOT = Path(__file__).resolve().parents[3]
VERSION = "0.1.0"
_RELEASE_SECONDS = 1500
_COMMAND_SECONDS = 300


@dataclass(frozen=True)
class Published:
    """What `make release` left.

    Attributes:
        references: of the chart and each image its name with its digest.
        printed: what it printed.
        out: the folder with its files.
        key: the public key.
    """

    registry: Registry
    references: Mapping[str, str]
    printed: str
    out: Path
    key: Path

    def verify_command(self, name: str) -> str:
        """The line that it printed for the chart or an image."""
        lines = [line for line in self.printed.splitlines() if line.startswith("cosign verify ")]
        [line] = [line for line in lines if line.endswith(f" {self.references[name]}")]
        return line


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line as a person does who has cosign on PATH."""
    cosign = build.binaries(["cosign"])["cosign"].parent
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{cosign}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )


def make(*arguments: str, environment: Mapping[str, str]) -> str:
    """Run make in the checkout; what it prints."""
    done = subprocess.run(
        ["make", "--silent", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_RELEASE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """The release, and the registry that has it."""
    folder = tmp_path_factory.mktemp("release")
    environment = os.environ | {"COSIGN_PASSWORD": "a-password-4242"}
    key = folder / "cosign.key"
    make("release-key", f"KEY={key}", environment=environment)
    with Registry(folder) as registry:
        settings = (f"REGISTRY={registry.host}", f"KEY={key}", f"OUT={folder / 'out'}")
        printed = make("release", *settings, environment=environment)
        references = json.loads((folder / "out" / "references.json").read_text())
        yield Published(registry, references, printed, folder / "out", folder / "cosign.pub")
