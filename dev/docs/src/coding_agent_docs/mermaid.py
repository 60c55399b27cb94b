"""Mermaid draws the diagrams in the reader's browser: from npm when the site is built, never from a CDN.

The site's own script takes the global `mermaid` if there is one, and only otherwise fetches it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from coding_agent_docs.errors import DocsError
from coding_agent_docs.paths import DOCS

VERSION = "12.3.0"
INTEGRITY = "4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw=="
"""SHA-512 of the package, base64, as `npm view mermaid@VERSION dist.integrity` says it."""
TARGET = DOCS / "assets" / "javascripts" / "mermaid.min.js"
_SECONDS = 240


def provide() -> Path:
    """Put it where the site takes it from; fetched once a machine.

    Raises:
        DocsError: npm cannot fetch it, or it is another than the pinned one.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coding-agent" / "npm"
    cached = root / f"mermaid-{VERSION}.min.js"
    if not cached.exists():
        root.mkdir(parents=True, exist_ok=True)
        script = _script(_fetch())
        fresh = root / f".{cached.name}.{os.getpid()}"
        fresh.write_bytes(script)
        fresh.rename(cached)
    if not TARGET.exists() or TARGET.stat().st_size != cached.stat().st_size:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_bytes(cached.read_bytes())
    return TARGET


def _fetch() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"mermaid@{VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise DocsError(f"npm is needed to fetch mermaid for the diagrams: {error}") from error
        if done.returncode:
            raise DocsError(f"npm cannot fetch mermaid {VERSION}: {done.stderr[-2000:]}")
        (package,) = Path(folder).glob("*.tgz")
        return package.read_bytes()


def _script(package: bytes) -> bytes:
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != INTEGRITY:
        raise DocsError(f"mermaid {VERSION} from npm is not the pinned one: sha512-{found}")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        member = archive.extractfile("package/dist/mermaid.min.js")
        assert member is not None
        return member.read()
