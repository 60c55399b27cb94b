"""Changes that a person opens."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.fixtures.system import REPOSITORY, System


def push(system: System, files: Mapping[str, str], branch: str = "main") -> None:
    """A person pushes a commit with these files; a branch that does not exist starts from `main`."""
    path = str(system.forge.repository(REPOSITORY).path)
    with tempfile.TemporaryDirectory(dir=system.folder) as folder:
        tree = Path(folder)
        subprocess.run(["git", "clone", "-q", path, folder], check=True, timeout=60)
        for name, text in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text, encoding="utf-8")
        identity = ("-c", "user.name=Alice", "-c", "user.email=a@example.com")
        for command in (
            ["add", "--all"],
            [*identity, "commit", "-q", "--allow-empty", "-m", "A feature"],
            ["push", "-q", "origin", f"HEAD:refs/heads/{branch}"],
        ):
            subprocess.run(["git", "-C", folder, *command], check=True, timeout=60)


def open_change(system: System, files: Mapping[str, str] | None = None) -> int:
    """A person pushes a branch with these files and opens a change for it; its number."""
    push(system, files or {}, "feature")
    return system.forge.open_change(REPOSITORY, "feature", "main", title="A feature")
