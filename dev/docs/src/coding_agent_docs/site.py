"""Builds the site with zensical from `docs/`. A warning is an error, and the site needs no other host.

Mermaid draws the diagrams in the reader's browser. It comes from npm at build time, never from a CDN:
the site's own script takes the global `mermaid` if there is one, and only otherwise fetches it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from coding_agent_docs.errors import DocsError
from coding_agent_docs.paths import DOCS, ROOT

CONFIG = ROOT / ".zensical.toml"
SITE = ROOT / ".cache" / "site"
_BUILD_S = 300
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MERMAID_VERSION = "12.3.0"
_MERMAID_INTEGRITY = (
    "4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw=="
)
"""SHA-512 of the package in base64, as `npm view mermaid@VERSION dist.integrity` prints it."""
_MERMAID = DOCS / "assets" / "javascripts" / "mermaid.min.js"
_FETCH_S = 240
_RETRIES = ("--fetch-retries=5", "--fetch-retry-mintimeout=2000", "--fetch-retry-maxtimeout=20000")


def build() -> Path:
    """Build the site anew, and return its folder.

    Raises:
        DocsError: a link or an anchor is dead, or zensical warns of something else.
    """
    _provide_mermaid()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False, cwd=ROOT)
    if done.returncode or "No issues found" not in done.stdout + done.stderr:
        said = _COLOUR.sub("", done.stdout + done.stderr).partition("Traceback")[0]
        raise DocsError(f"zensical found something:\n{said}")
    return SITE


def serve() -> int:
    """Build the site and serve it on zensical's own port. Return zensical's exit status."""
    _provide_mermaid()
    return subprocess.run(
        [sys.executable, "-m", "zensical", "serve", "--config-file", str(CONFIG)], check=False, cwd=ROOT
    ).returncode


def _provide_mermaid() -> Path:
    """Copy Mermaid into the site's sources. A machine fetches it only once.

    Raises:
        DocsError: npm cannot fetch it, or its checksum is not the pinned one.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coding-agent" / "npm"
    cached = root / f"mermaid-{_MERMAID_VERSION}.min.js"
    if not cached.exists():
        root.mkdir(parents=True, exist_ok=True)
        script = _mermaid_script(_fetch_mermaid())
        fresh = root / f".{cached.name}.{os.getpid()}"
        fresh.write_bytes(script)
        fresh.rename(cached)
    if not _MERMAID.exists() or _MERMAID.stat().st_size != cached.stat().st_size:
        _MERMAID.parent.mkdir(parents=True, exist_ok=True)
        _MERMAID.write_bytes(cached.read_bytes())
    return _MERMAID


def _fetch_mermaid() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", *_RETRIES, "--pack-destination", folder]
        command.append(f"mermaid@{_MERMAID_VERSION}")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise DocsError(f"npm is needed to fetch mermaid for the diagrams: {error}") from error
        if done.returncode:
            raise DocsError(f"npm cannot fetch mermaid {_MERMAID_VERSION}: {done.stderr[-2000:]}")
        (package,) = Path(folder).glob("*.tgz")
        return package.read_bytes()


def _mermaid_script(package: bytes) -> bytes:
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != _MERMAID_INTEGRITY:
        raise DocsError(f"mermaid {_MERMAID_VERSION} from npm is not the pinned one: sha512-{found}")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        member = archive.extractfile("package/dist/mermaid.min.js")
        assert member is not None
        return member.read()
