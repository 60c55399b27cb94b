"""Building images from Dockerfiles without a daemon, into a store of the project's own."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from coding_agent_cluster import apt, paths
from coding_agent_cluster.commands import run
from coding_agent_cluster.errors import ClusterError

# A first build downloads and installs wheels; machines are shared.
_BUILD_TIMEOUT_S = 1800.0
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Of pip's settings those that say where packages come from; paths of this machine mean nothing in a build.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout")


def command(*arguments: str) -> list[str]:
    """A buildah command line on the project's store, in a mount namespace of its own.

    Without one, buildah leaves its store mounted.
    """
    store = paths.cache_root() / "buildah"
    return [
        *("unshare", "--mount", "--propagation", "private"),
        *("buildah", "--storage-driver", "overlay"),
        *("--root", str(store / "root"), "--runroot", str(store / "run")),
        *arguments,
    ]


def buildah(*arguments: str, timeout: float = 120.0) -> str:
    """Run buildah and return what it prints.

    Raises:
        ClusterError: it did not succeed.
        MachineError: it is missing and cannot be installed.
    """
    apt.ensure({"buildah": "buildah", "unshare": "util-linux"})
    return run(command(*arguments), timeout=timeout)


def build_arguments(
    dockerfile: Path, context: Path, image: str, base: str, mounts: Mapping[Path, str]
) -> list[str]:
    """The arguments for building ``image``; ``mounts`` (file here: path inside) are there for RUN only."""
    # A local base is never looked for in a registry; another one may have to be fetched.
    pull = "--pull-never" if base.startswith("localhost/") else "--pull"
    volumes = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
    return [
        *("bud", "--isolation", "chroot", "--layers", pull, f"--build-arg=BASE_IMAGE={base}"),
        *volumes,
        *("--file", str(dockerfile), "--tag", image, str(context)),
    ]


def build(dockerfile: Path, context: Path, image: str, base: str, flags: Sequence[str] = ()) -> None:
    """Build ``image``; unchanged layers come from the store. ``flags`` are further ones of ``buildah bud``.

    The machine's certificates and pip's settings are lent to the RUN steps; nothing of them is in the image.

    Raises:
        ClusterError: a step failed; its output is in the message.
    """
    mounts = {Path(_bundle()): _CERTIFICATES} if Path(_bundle()).exists() else {}
    settings = paths.cache_root() / "buildah" / "pip.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(pip_configuration(_pip_config_list()))
    mounts[settings] = "/etc/pip.conf"
    command_line = build_arguments(dockerfile, context, image, base, mounts)
    buildah(command_line[0], *flags, *command_line[1:], timeout=_BUILD_TIMEOUT_S)


def pip_configuration(listing: Sequence[str]) -> str:
    """A pip.conf for inside a build, from the lines of ``pip config list`` here (``global.name='value'``)."""
    lines = ["[global]", f"cert = {_CERTIFICATES}"]
    for line in listing:
        name, _, value = line.partition("=")
        name = name.rsplit(".", 1)[-1]
        if name in _PIP_SETTINGS:
            lines.append(f"{name} = {value.strip().strip(chr(39))}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _pip_config_list() -> list[str]:
    """What pip on this machine is told; an environment made by uv has no pip of its own."""
    for pip in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        with contextlib.suppress(ClusterError):
            return run([*pip, "config", "list"], timeout=60).splitlines()
    return []


def _bundle() -> str:
    return os.environ.get("SSL_CERT_FILE") or _CERTIFICATES
