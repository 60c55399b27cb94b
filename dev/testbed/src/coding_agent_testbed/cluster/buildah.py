"""Building images from Dockerfiles without a daemon, into a store of the project's own."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from coding_agent_testbed.cluster import apt, paths
from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.errors import ClusterError

# A first build downloads and installs wheels; machines are shared.
_BUILD_TIMEOUT_S = 1800.0
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Of npm's settings those that say where packages come from.
_NPM_SETTINGS = ("registry", "proxy", "https-proxy", "noproxy")
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

    The machine's certificates and pip's settings are lent to the RUN steps: to uv, and to pip, which fetches
    it. Nothing of them is in the image but empty files where they were.

    Raises:
        ClusterError: a step failed; its output is in the message.
    """
    mounts = {Path(_bundle()): _CERTIFICATES} if Path(_bundle()).exists() else {}
    folder = paths.cache_root() / "buildah"
    folder.mkdir(parents=True, exist_ok=True)
    settings = pip_settings(_pip_config_list())
    for file, text in (("pip.conf", pip_configuration(settings)), ("uv/uv.toml", uv_configuration(settings))):
        (folder / file).parent.mkdir(exist_ok=True)
        _write(folder / file, text)
        mounts[folder / file] = f"/etc/{file}"
    command_line = build_arguments(dockerfile, context, image, base, mounts)
    words = (command_line[0], *flags, *command_line[1:])
    again(f"image {image}", lambda: buildah(*words, timeout=_BUILD_TIMEOUT_S))


def _write(file: Path, text: str) -> None:
    """Leave a file alone that is right: another build may be reading it."""
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def npm_flags() -> list[str]:
    """Flags of ``build`` that lend npm's settings and the machine's certificates to the RUN steps."""
    file = paths.cache_root() / "buildah" / "npmrc"
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, npm_configuration(_npm_config_list()))
    return [f"--volume={file}:/root/.npmrc:ro"]


def npm_configuration(listing: Sequence[str]) -> str:
    """An .npmrc for inside a build, from the lines of ``npm config list`` here (``name = "value"``)."""
    lines = [f"cafile={_CERTIFICATES}\n"] if Path(_bundle()).exists() else []
    for line in listing:
        name, _, value = line.partition(" = ")
        if name in _NPM_SETTINGS:
            lines.append(f"{name}={value.strip()}\n")
    return "".join(lines)


def pip_settings(listing: Sequence[str]) -> dict[str, str]:
    """Settings of pip in a build, from the lines of ``pip config list`` here (``global.name='value'``)."""
    found = {}
    for line in listing:
        name, _, value = line.partition("=")
        name = name.rsplit(".", 1)[-1]
        if name in _PIP_SETTINGS:
            found[name] = value.strip().strip("'")
    return found


def pip_configuration(settings: Mapping[str, str]) -> str:
    """A pip.conf for inside a build."""
    told = {"cert": _CERTIFICATES, **settings}
    return "".join(("[global]\n", *(f"{name} = {value}\n" for name, value in told.items())))


def uv_configuration(settings: Mapping[str, str]) -> str:
    """A uv.toml that says the same; its strings are JSON's (https://docs.astral.sh/uv/reference/settings/)."""
    lines = []
    if "index-url" in settings:
        lines.append(f"index-url = {json.dumps(settings['index-url'])}")
    for name, uvs in (("extra-index-url", "extra-index-url"), ("trusted-host", "allow-insecure-host")):
        if name in settings:  # pip separates several by white space
            lines.append(f"{uvs} = {json.dumps(settings[name].split())}")
    return "".join(f"{line}\n" for line in lines)


def _pip_config_list() -> list[str]:
    """How pip is configured on this machine; an environment made by uv has no pip of its own."""
    for pip in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        with contextlib.suppress(ClusterError):
            return run([*pip, "config", "list"], timeout=60).splitlines()
    return []


def _npm_config_list() -> list[str]:
    with contextlib.suppress(ClusterError):
        return run(["npm", "config", "list"], timeout=60).splitlines()
    return []


def _bundle() -> str:
    return os.environ.get("SSL_CERT_FILE") or _CERTIFICATES
