"""The site: zensical over `docs/`, strict, with everything in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from coding_agent_docs import mermaid
from coding_agent_docs.errors import DocsError
from coding_agent_docs.paths import ROOT

CONFIG = ROOT / "zensical.toml"
SITE = ROOT / ".cache" / "site"
_SECONDS = 120
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build() -> Path:
    """Build the site anew; the folder it is in.

    Raises:
        DocsError: a link or an anchor is dead, or anything else that zensical warns of.
    """
    mermaid.provide()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=ROOT)
    if done.returncode or "No issues found" not in done.stdout + done.stderr:
        said = _COLOUR.sub("", done.stdout + done.stderr).partition("Traceback")[0]
        raise DocsError(f"zensical found something:\n{said}")
    return SITE


def serve() -> int:
    """Build and serve the site for a writer, on zensical's own port; its exit status."""
    mermaid.provide()
    return subprocess.run(
        [sys.executable, "-m", "zensical", "serve", "--config-file", str(CONFIG)], check=False, cwd=ROOT
    ).returncode
