from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.consumer_workspace.git_server import GitServer, git, serve


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    root = tmp_path / "served"
    root.mkdir()
    with serve(root) as server:
        server.make()
        yield server


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A repository with a bug, a test, and an ignore file, as the bundle of branch `work`."""
    work = tmp_path / "seed"
    git(tmp_path, "init", "-q", "-b", "work", str(work))
    (work / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (work / "logo.bin").write_bytes(bytes(range(256)))
    (work / ".gitignore").write_text("*.log\nbuild/\n")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "start")
    path = tmp_path / "seed.bundle"
    git(work, "bundle", "create", "-q", str(path), "refs/heads/work")
    return path


@pytest.fixture
def base_dir() -> Iterator[Path]:
    """Where workspaces are made: a folder that another user may pass through, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        assert os.listdir(name) == [], "a workspace left something behind"
