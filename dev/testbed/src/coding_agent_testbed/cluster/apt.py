"""Debian packages that are needed: installed by name when root, a sentence with the command otherwise."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.errors import MachineError
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.paths import cache_root
from coding_agent_testbed.cluster.progress import step

_APT_TIMEOUT_S = 600
# iptables, debootstrap and their like live in sbin, which a user's PATH may lack.
_SEARCH = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])


def which(program: str) -> str | None:
    """Where ``program`` is, sbin folders included."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}{os.pathsep}{_SEARCH}")


def ensure(programs: dict[str, str]) -> None:
    """Make sure that each program (key) is there, from its Debian package (value).

    Raises:
        MachineError: it is not and cannot be installed here.
    """
    _install(sorted({package for program, package in programs.items() if which(program) is None}))


def ensure_files(files: dict[str, str]) -> None:
    """Make sure that each file (key) is there, from its Debian package (value).

    Raises:
        MachineError: it is not and cannot be installed here.
    """
    _install(sorted({package for file, package in files.items() if not Path(file).exists()}))


def _install(packages: Iterable[str]) -> None:
    names = list(packages)
    if not names:
        return
    command = f"apt-get install -y {' '.join(names)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MachineError(f"missing on this machine: {', '.join(names)}. Install it: sudo {command}")
    with locked(cache_root() / "apt.lock"), step(f"install {', '.join(names)}"):
        again(f"install {', '.join(names)}", lambda: _fetch(names))


def _fetch(names: list[str]) -> None:
    # Both: of a package that was replaced meanwhile the older index knows the wrong version.
    _apt(["update", "-qq"])
    _apt(["install", "-y", "-qq", "--no-install-recommends", *names])


def _apt(arguments: list[str]) -> None:
    # dpkg's lock may be held by someone else's installation: wait for it, it ends. apt's other locks fail.
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_APT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{' '.join(command)} took more than {_APT_TIMEOUT_S} s") from error
    if run.returncode:
        raise MachineError(f"{' '.join(command)} failed: {run.stderr.strip()[-500:]}")
