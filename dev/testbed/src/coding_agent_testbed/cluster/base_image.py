"""The base image where no registry can be reached: a Debian root file system with Python, by debootstrap."""

import hashlib
import shutil
from pathlib import Path

from coding_agent_testbed.cluster import apt, paths
from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.buildah import build, buildah
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.progress import step

NODE_IMAGE = "localhost/node:22"
# Debian trixie carries Python 3.13, as the public image does.
IMAGE = "localhost/python:3.13-slim"
_SUITE = "trixie"
# python3-venv and python3-pip for the Dockerfiles' build stages; git, which the consumer's image needs.
_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates", "git")
_DEBOOTSTRAP_TIMEOUT_S = 900.0
# A slim image does not need these.
_EXCESS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")


def ensure() -> str:
    """Make the base image unless the store has it, and return its name.

    Raises:
        MachineError: debootstrap or buildah is missing and cannot be installed.
        ClusterError: the packages cannot be fetched.
    """
    recipe = paths.source_root() / "base" / "Dockerfile"
    key = hashlib.sha256(f"{_SUITE} {_PACKAGES} {_EXCESS} {recipe.read_text()}".encode()).hexdigest()[:12]
    work = paths.cache_root() / "base"
    with locked(work / "build.lock"):
        mark = work / "made"
        if mark.exists() and mark.read_text() == key and _exists():
            return IMAGE
        apt.ensure({"debootstrap": "debootstrap", "buildah": "buildah", "tar": "tar"})
        with step(f"base image: Debian {_SUITE} with Python", work / "root"):
            _make(work, recipe)
        mark.write_text(key)
    return IMAGE


def ensure_node(base: str) -> str:
    """Make an image with npm on top of ``base`` unless the store has it, and return its name.

    Raises:
        ClusterError: a step failed.
    """
    folder = paths.source_root() / "base"
    build(folder / "node.Dockerfile", folder, NODE_IMAGE, base)
    return NODE_IMAGE


def _make(work: Path, recipe: Path) -> None:
    root, context = work / "root", work / "context"
    context.mkdir(parents=True, exist_ok=True)
    include = f"--include={','.join(_PACKAGES)}"
    debootstrap = apt.which("debootstrap") or "debootstrap"
    # In a mount namespace: an interrupted debootstrap leaves /proc mounted in the new root.
    namespace = ["unshare", "--mount", "--propagation", "private"]
    command_line = [*namespace, debootstrap, "--variant=minbase", include, _SUITE, str(root)]

    def bootstrap() -> None:
        shutil.rmtree(root, ignore_errors=True)
        run(command_line, timeout=_DEBOOTSTRAP_TIMEOUT_S)

    again("debootstrap", bootstrap)
    for folder in _EXCESS:
        shutil.rmtree(root / folder, ignore_errors=True)
    # The public image has the name `python` too.
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    archive = context / "rootfs.tar"
    packing = ["tar", "--numeric-owner", "--sort=name", "--one-file-system", "-C", str(root), "-cf"]
    run([*packing, str(archive), "."], timeout=120)
    buildah("bud", "--file", str(recipe), "--tag", IMAGE, str(context), timeout=600)
    shutil.rmtree(root, ignore_errors=True)
    archive.unlink()


def _exists() -> bool:
    """Whether the store has the image. If buildah does not answer in time, this is an error: on another base,
    every image would have to be built again.
    """
    return bool(buildah("images", "--quiet", "--filter", f"reference={IMAGE}").strip())
