"""The plugin of a release: wheels for Python's installers, and an archive with a manifest for Krew."""

import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from coding_agent_testbed.cluster import commands

from coding_agent_release.errors import ReleaseError
from coding_agent_release.version import of_python

_BUILD_TIMEOUT_S = 300.0
_PACKAGES = ("core", "forges", "plugin")
"""The plugin imports the others, which no package index has."""
_PROGRAM = "kubectl-agenttask"
_LAUNCHER = """\
#!/bin/sh
# Runs the plugin with uv, which installs its packages when it is run for the first time.
set -eu
here=$(dirname "$(readlink -f "$0")")
if ! command -v uv >/dev/null; then
    echo "kubectl agenttask needs uv: https://docs.astral.sh/uv/getting-started/installation" >&2
    exit 1
fi
exec uv tool run --quiet --from "$here/{plugin}" --with "$here/{core}" \\
    --with "$here/{forges}" {program} "$@"
"""
# https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest
_MANIFEST = """\
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: agenttask
spec:
  version: v{version}
  shortDescription: Follow and steer the tasks of the coding agent
  description: |
    Lists, describes, follows, cancels, retries and starts AgentTasks, prepares an installation of the
    coding agent, and finds what is wrong with one.
  caveats: |
    It needs uv: https://docs.astral.sh/uv/getting-started/installation
  platforms:
    - selector:
        matchExpressions:
          - {{ key: os, operator: In, values: [darwin, linux] }}
      uri: {uri}
      sha256: {sha256}
      bin: {program}
"""


@dataclass(frozen=True)
class Plugin:
    """The files of the plugin: the wheels that it imports and its own, Krew's archive and manifest."""

    core: Path
    forges: Path
    wheel: Path
    archive: Path
    manifest: Path


def build(root: Path, out: Path, *, version: str, downloads: str) -> Plugin:
    """Build the plugin into the folder `out`.

    Args:
        root: the top folder of the checkout.
        downloads: where people get the files of the release from, an address without a trailing slash.

    Raises:
        ReleaseError: uv is missing.
        ClusterError: uv cannot build the wheels.
    """
    out.mkdir(parents=True, exist_ok=True)
    core, forges, wheel = _wheels(root, out, version)
    launcher = _LAUNCHER.format(plugin=wheel.name, core=core.name, forges=forges.name, program=_PROGRAM)
    archive = out / f"{_PROGRAM}-{version}.tar.gz"
    files = {
        _PROGRAM: launcher.encode(),
        **{f.name: f.read_bytes() for f in (core, forges, wheel)},
        "LICENSE": (root / "LICENSE").read_bytes(),
    }
    archive.write_bytes(_archive(files))
    manifest = out / "agenttask.yaml"
    manifest.write_text(
        _MANIFEST.format(
            version=version,
            uri=f"{downloads}/{archive.name}",
            sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
            program=_PROGRAM,
        ),
        encoding="utf-8",
    )
    return Plugin(core, forges, wheel, archive, manifest)


def _wheels(root: Path, out: Path, version: str) -> list[Path]:
    """Build them from copies that have the version of the release."""
    uv = shutil.which("uv", path=os.pathsep.join([str(root / ".uv" / "bin"), os.environ["PATH"]]))
    if uv is None:
        raise ReleaseError("uv is missing: `make venv` installs it")
    wheels = []
    for package in _PACKAGES:
        with TemporaryDirectory() as scratch:
            copy = Path(scratch) / package
            shutil.copytree(root / package, copy)
            project = copy / "pyproject.toml"
            text = project.read_text(encoding="utf-8")
            project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', text, count=1))
            flags = ["--quiet", "--wheel", "--no-create-gitignore", "--out-dir", str(out)]
            command = [uv, "build", *flags, str(copy)]
            commands.run(command, timeout=_BUILD_TIMEOUT_S)
        name = "kubectl_agenttask" if package == "plugin" else f"coding_agent_{package}"
        wheels.append(out / f"{name}-{of_python(version)}-py3-none-any.whl")
    return wheels


def _archive(files: dict[str, bytes]) -> bytes:
    """A .tar.gz that has the same bytes whenever it has the same files."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755 if name == _PROGRAM else 0o644
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
