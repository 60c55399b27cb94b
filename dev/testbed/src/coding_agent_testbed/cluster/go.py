"""Go: the one on PATH where it is new enough, otherwise the pinned toolchain from the Go module proxy.

Distributions carry older releases, and not all of them can fetch a newer one by themselves. The toolchain is
the module that `go` itself downloads for a `toolchain` line (https://go.dev/doc/toolchain), checked by its
SHA-256.
"""

import functools
import hashlib
import http.client
import os
import platform
import re
import shutil
import subprocess
import urllib.request
import zipfile
from pathlib import Path

from coding_agent_testbed.cluster import paths
from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.errors import BuildError
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.progress import step

VERSION = "1.26.8"
"""The highest that a go.mod in dev/testbed/go asks for."""
_SHA256 = {
    "linux-amd64": "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7",
    "linux-arm64": "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99",
    "darwin-arm64": "0aad5fb52b88498885290178adc0bcfe429bc63012621af9f83282eb640bd9c7",
    "darwin-amd64": "fe99a2009e5bb51e06d7784f1a486478673512041c2671157bd382806e2aedcf",
}
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_DOWNLOAD_S = 120
"""Without a byte."""


def program() -> str:
    """The path of a `go` that is at least `VERSION`.

    Raises:
        BuildError: there is none, and none can be downloaded.
    """
    return _program(os.environ.get("PATH", ""), paths.cache_root())


@functools.cache
def _program(path: str, cache: Path) -> str:
    found = shutil.which("go", path=path)
    if found is not None and _number(_version(found)) >= _number(VERSION):
        return found
    return str(_toolchain(cache / "go"))


def _version(go: str) -> str:
    """`1.26.8`; empty where the program does not say (before Go 1.16: `go env GOVERSION`)."""
    run = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    return run.stdout.strip().removeprefix("go")


def _number(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)


def _toolchain(folder: Path) -> Path:
    host = f"{platform.system().lower()}-{_MACHINES.get(platform.machine().lower(), 'unknown')}"
    go = folder / f"go{VERSION}" / "bin" / "go"
    with locked(folder / "download.lock"):
        if go.exists():
            return go
        if host not in _SHA256:
            raise BuildError(f"Go {VERSION} or later was not found on PATH: install Go (https://go.dev/dl)")
        name = f"golang.org/toolchain@v0.0.1-go{VERSION}.{host}"
        archive, scratch = folder / "download.zip", folder / "unpacked"
        try:
            with step(f"download Go {VERSION}", archive):
                url = f"{_proxy()}/{name.replace('@', '/@v/')}.zip"
                again(f"download Go {VERSION}", lambda: _download(url, archive, _SHA256[host]))
                with zipfile.ZipFile(archive) as files:
                    files.extractall(scratch)
            for tool in [*(scratch / name).glob("bin/*"), *(scratch / name).glob("pkg/tool/*/*")]:
                tool.chmod(0o755)  # a module's archive has no file modes
            (scratch / name).rename(go.parents[1])
        finally:
            archive.unlink(missing_ok=True)
            shutil.rmtree(scratch, ignore_errors=True)
    return go


def _proxy() -> str:
    """The first address of GOPROXY."""
    named = re.split(r"[,|]", os.environ.get("GOPROXY", ""))
    return next((url.rstrip("/") for url in named if url.startswith("http")), "https://proxy.golang.org")


def _download(url: str, file: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_S) as answer, file.open("wb") as out:
            while block := answer.read(1 << 20):
                digest.update(block)
                out.write(block)
    except (OSError, http.client.HTTPException) as error:
        raise BuildError(
            f"Go {VERSION} or later was not found on PATH, and {url} cannot be downloaded: {error}."
            " Install Go (https://go.dev/dl) or set GOPROXY"
        ) from error
    headers = getattr(answer, "headers", None) or {}
    wanted = headers.get("content-length")
    if wanted is not None and file.stat().st_size != int(wanted):
        raise BuildError(f"{url} is incomplete: {file.stat().st_size} of {wanted} bytes came")
    if digest.hexdigest() != sha256:
        raise BuildError(f"{url} is not what was pinned: its SHA-256 is {digest.hexdigest()}")
