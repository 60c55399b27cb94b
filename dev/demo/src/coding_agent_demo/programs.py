"""CLI coding agents from their registry, in the versions of their images, installed once by npm."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from coding_agent_demo.forges import ROOT
from coding_agent_demo.processes import CACHE_ROOT, DemoError

CACHE = CACHE_ROOT / "runners"
"""Shared by checkouts. Not below `/tmp`, which a workspace has of its own."""
_INSTALL_SECONDS = 300
_RETRIES = ("--fetch-retries=5", "--fetch-retry-mintimeout=2000", "--fetch-retry-maxtimeout=20000")


@dataclass(frozen=True)
class Package:
    """A package of npm.

    Attributes:
        program: pattern of the program for this machine, below `node_modules`.
    """

    name: str
    program: str


PACKAGES = {
    "claude-code": Package("@anthropic-ai/claude-code", "@anthropic-ai/claude-code-linux-*/claude"),
    "codex": Package("@openai/codex", "@openai/codex-linux-*/vendor/*/bin/codex"),
    "opencode": Package("opencode-ai", "opencode-linux-[xa]*64/bin/opencode"),
    "gemini": Package("@google/gemini-cli", ".bin/gemini"),
}


def version_of(runner: str) -> str:
    """The version that the runner's image gets."""
    text = (ROOT / "consumer" / "runners.Dockerfile").read_text(encoding="utf-8")
    argument = f"{runner.replace('-', '_').upper()}_VERSION"
    found = re.search(rf"^ARG {argument}=(\S+)$", text, re.MULTILINE)
    if found is None:
        raise DemoError(f"consumer/runners.Dockerfile has no {argument}.")
    return found[1]


def program_folder(runner: str) -> Path:
    """The folder with the runner's program, for a PATH; installed if it is not there.

    Raises:
        DemoError: npm is missing, or cannot install it.
    """
    package, version = PACKAGES[runner], version_of(runner)
    home = CACHE / f"{runner}-{version}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be installing it
        if not home.exists():
            fresh = Path(tempfile.mkdtemp(dir=CACHE))
            try:
                _install(f"{package.name}@{version}", fresh)
                fresh.chmod(0o755)
                fresh.rename(home)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    found = sorted((home / "node_modules").glob(package.program))
    if not found:
        raise DemoError(f"{package.name} {version} has no program for this machine; see {home}.")
    return found[0].parent


def _install(package: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DemoError(
            "npm is not installed on this machine, but it is needed to install the CLI coding agent. "
            "See https://nodejs.org."
        )
    # Their programs for this machine are packages of their own, and no script has to run.
    command = [
        npm,
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        *_RETRIES,
        "--prefix",
        str(folder),
        package,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"npm took more than {_INSTALL_SECONDS} s to install {package}.") from error
    if done.returncode:
        raise DemoError(f"npm cannot install {package}: {done.stderr[-2000:]}")
